// Line charts over time or batches, and the four charts of the whole run.
import { byId, capital, clock, made, metricTitle, metricUnit, short } from "./format.js";

const HEIGHT = 190, MARGIN = 20;
const whole100 = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Lines are told apart by dashes as well as by colour.
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [12, 5]];
const STYLES = ["solid", "dashed", "dotted", "dashed", "dotted", "dashed"];
export const MOST_LINES = DASHES.length;

// Seconds between two marks. Each step is at most 2.5 times the one before: a narrow chart, too, has a mark within its bounds.
const DAY = 86400;
const STEPS = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, ...[1, 2, 5, 10, 20, 50, 100].map((days) => days * DAY),
];
const TIME = { axis: { values: "{HH}:{mm}:{ss}", space: (plot) => Math.min(70, plot.width / 5), incrs: STEPS }, label: "time", text: clock };
export const BATCHES = { axis: { space: 60, values: (_, ticks) => ticks.map(whole100) }, label: "batch", text: whole100 };

export class LineChart {
  // box: an element with room for the chart; labels: of the lines; x: TIME or BATCHES; gaps: where nothing is measured;
  // leads: without a pointer the legend reads where the first line ends.
  constructor(box, title, unit, labels, { x = TIME, gaps = true, leads = false } = {}) {
    Object.assign(this, { box, title, unit, labels, x, gaps, leads });
    this.columns = [[], ...labels.map(() => [])];
    this.place = null;
    box.addEventListener("keydown", (event) => this.step(event));
    box.addEventListener("blur", () => this.restore());
    box.setAttribute("tabindex", "0");
    box.setAttribute("role", "group");
    this.draw();
  }

  // Draws anew, after a change of colours.
  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const value = (_, each) => (each === null || each === undefined ? "–" : short(each) + this.unit);
    const lines = this.labels.map((label, n) => ({
      label, stroke: colour(`--line${n + 1}`), width: 2, dash: DASHES[n], spanGaps: !this.gaps, points: { show: false }, value,
    }));
    this.plot = new uPlot({
      width: this.width(), height: HEIGHT, padding: [8, 28, 0, 0], cursor: { y: false, drag: { x: false } },
      legend: { markers: { dash: (_, n) => STYLES[n - 1] } },
      scales: { x: { time: this.x === TIME }, y: { range: (_, low, high) => this.range(low, high) } },
      axes: [{ ...axis, ...this.x.axis }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => whole100(tick) + this.unit) }],
      series: [{ label: this.x.label, value: (_, each) => (each === null || each === undefined ? "–" : this.x.text(each)) }, ...lines],
    }, this.columns, this.box);
    this.restore();
  }

  width() {
    return Math.max(this.box.clientWidth - MARGIN, 120);
  }

  range(low, high) {
    return [low < 0 ? 1.1 * low : 0, high > 0 ? 1.1 * high : 1];
  }

  fit() {
    this.plot.setSize({ width: this.width(), height: HEIGHT });
    this.resume(this.place === null ? null : this.columns[0][this.place]);
  }

  set(columns) {
    const held = this.place === null ? null : this.columns[0][this.place];
    this.columns = columns;
    this.plot.setData(columns);
    this.resume(held);
    this.box.setAttribute("aria-label", `${this.title}: ${this.empty() ? "nothing measured yet" : "the arrow keys read values"}`);
  }

  empty() {
    return this.columns.slice(1).every((column) => column.every((value) => value === null || value === undefined));
  }

  // Goes on reading at a moment (null: the newest one), once the plot has its new scales.
  resume(held) {
    queueMicrotask(() => {
      if (held === null) return this.restore();
      // The nearest one: the master's clock and this one are compared at each answer, so moments move a little.
      const times = this.columns[0], next = times.findIndex((each) => each >= held), last = times.length - 1;
      const place = next < 0 ? last : next;
      this.read(place > 0 && held - times[place - 1] < times[place] - held ? place - 1 : place);
    });
  }

  // Without a pointer the legend has the newest values, which would be spoken all the time.
  restore() {
    this.place = null;
    this.legend().setAttribute("aria-live", "off");
    const last = this.columns[0].length - 1, end = this.leads ? this.columns[1].findLastIndex((value) => value !== null) : last;
    if (last >= 0) this.plot.setLegend({ idx: end < 0 ? last : end }, false);
  }

  // Arrow keys move the reading.
  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key], last = this.columns[0].length - 1;
    if (by === undefined || last < 0) return;
    event.preventDefault();
    this.read(Math.min(Math.max((this.place ?? last) + by, 0), last));
  }

  read(place) {
    this.place = place;
    this.legend().setAttribute("aria-live", "polite");
    this.plot.setCursor({ left: this.plot.valToPos(this.columns[0][place], "x"), top: 10 });
  }

  legend() {
    return this.plot.root.querySelector(".u-legend");
  }
}

const CHARTS = [
  { title: "Test metric", unit: "", gaps: false, series: [["test", "metric"]] },
  { title: "Samples a second", unit: "", series: [["through the network", "samples_per_second"]] },
  { title: "Staleness of pushes", unit: "", series: [["middle", "staleness_p50"], ["99 %", "staleness_p99"]] },
  { title: "Delay of gradients, in batches", unit: "", series: [["middle", "delay_p50"], ["99 %", "delay_p99"]] },
];
let drawn = [], moments = null;

export const history = () => moments;

// The first chart shows the first metric of the task, which the first answer of the master names.
export function nameChart(run) {
  const name = run.metrics[0] ?? "loss", title = metricTitle(name), chart = CHARTS[0];
  if (chart.series[0][0] === title) return;
  Object.assign(chart, { title: capital(title), unit: metricUnit(name), series: [[title, "metric"]] });
  buildCharts();
}

export function buildCharts() {
  byId("charts").replaceChildren();
  // All of them first: how wide each is depends on how many there are.
  const boxes = CHARTS.map((chart) => made("div", { class: "chart" }, made("h3", {}, `${chart.title} `, made("span", { class: "quiet" }))));
  byId("charts").append(...boxes);
  drawn = CHARTS.map((chart, n) => new LineChart(boxes[n], chart.title, chart.unit, chart.series.map(([label]) => label), chart));
  fillCharts(moments);
}

export function fillCharts(fresh) {
  moments = fresh;
  if (moments === null) return;
  drawn.forEach((chart, n) => {
    chart.set([moments.time, ...CHARTS[n].series.map(([, name]) => moments[name])]);
    chart.box.querySelector("h3 span").textContent = chart.empty() ? "nothing measured yet" : "";
  });
}

export const fitCharts = () => drawn.forEach((chart) => chart.fit());
export const redrawCharts = () => drawn.forEach((chart) => chart.draw());
