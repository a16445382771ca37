// A measure of each layer over time, asked for only while somebody looks: lines for a few layers, a map for many.
import { byId, clock, made, short } from "./format.js";
import { LineChart, MOST_LINES, colour } from "./charts.js";

// Path under /layers, title, unit and divisor; a cosine may be negative.
const MEASURES = [
  ["gradient_cosine", "Cosine of M's gradient to the true one", "", 1], ["loss", "Training loss", "", 1],
  ["own_loss", "Losses of units' own", "", 1], ["time_cosine", "Cosine of M in time", "", 1],
  ["samples_per_second", "Samples a second", "", 1], ["waiting_percent", "Waiting, of the steps' time", " %", 1],
  ["cpu_percent", "Processor of the slaves (100 %: one core)", " %", 1], ["gpu_percent", "GPU of the slaves", " %", 1],
  ["sent_bytes_per_second", "Links: sent, in MB a second", "", 1e6],
  ["received_bytes_per_second", "Links: received, in MB a second", "", 1e6], ["delay", "Delay of gradients, in batches", "", 1],
];
const ROW = [4, 22], LEFT = 34, BOTTOM = 20;
let chart = null, map = null, shown = "";

export function prepareLayers() {
  byId("measure").replaceChildren(...MEASURES.map(([name, title]) => made("option", { value: name }, title)));
  byId("map").addEventListener("keydown", (event) => walk(event));
  byId("map").addEventListener("pointermove", (event) => point(event));
}

// A run without M begins with its losses.
export function nameMeasure(run) {
  if (shown === "" && map === null && !run.gradient && byId("measure").value === MEASURES[0][0]) byId("measure").value = "loss";
}

const chosen = () => MEASURES.find(([name]) => name === byId("measure").value);

export function fillLayers({ time, layers }) {
  const [name, title, unit, by] = chosen();
  const values = layers.map((layer) => layer.map((value) => (value === null ? null : value / by)));
  const empty = values.every((layer) => layer.every((value) => value === null));
  byId("layers-empty").textContent = empty ? "Nothing measured yet: the run may have no such measure." : "";
  const many = values.length > MOST_LINES;
  byId("layers-lines").hidden = many || empty;
  byId("layers-map").hidden = !many || empty;
  if (many) {
    map = { time, values, unit, title };
    drawMap();
  } else if (values.length && !empty) {
    if (shown !== name) {
      byId("layers-lines").replaceChildren(made("div", { class: "chart" }));
      chart = new LineChart(byId("layers-lines").firstChild, title, unit, values.map((_, n) => `layer ${n + 1}`));
      shown = name;
    }
    chart.set([time, ...values]);
  }
}

export function fitLayers() {
  if (chart !== null && !byId("layers-lines").hidden) chart.fit();
  if (map !== null) drawMap();
}

export function redrawLayers() {
  chart?.draw();
  if (map !== null) drawMap();
}

// The map: a row for each layer, a column for each moment, the deeper the colour the greater the value.
let cell = null;

function drawMap() {
  const canvas = byId("map"), width = canvas.parentElement.clientWidth, rows = map.values.length, columns = map.time.length;
  if (!width || byId("layers-map").hidden) return;
  const row = Math.min(Math.max(Math.round(420 / rows), ROW[0]), ROW[1]), height = row * rows + BOTTOM, scale = devicePixelRatio;
  Object.assign(canvas, { width: width * scale, height: height * scale });
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d"), all = map.values.flat().filter((value) => value !== null);
  const low = all.reduce((a, b) => Math.min(a, b), 0), high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  const step = (width - LEFT) / columns;
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  map.values.forEach((layer, k) => layer.forEach((value, n) => {
    if (value === null) return;
    pen.globalAlpha = high > low ? 0.06 + 0.94 * (value - low) / (high - low) : 0.5;
    pen.fillStyle = colour("--accent");
    const from = Math.round(LEFT + n * step), to = Math.round(LEFT + (n + 1) * step);
    pen.fillRect(from, k * row, Math.max(to - from, 1), row - (row > 8 ? 1 : 0));
  }));
  pen.globalAlpha = 1;
  pen.fillStyle = colour("--quiet");
  pen.textBaseline = "middle";
  const every = Math.ceil(14 / row);
  for (let k = 0; k < rows; k += every) pen.fillText(String(k + 1), 4, (k + 0.5) * row);
  pen.fillText(clock(map.time[0]), LEFT, height - 8);
  pen.textAlign = "right";
  if (columns > 1) pen.fillText(clock(map.time[columns - 1]), width, height - 8);
  pen.textAlign = "left";
  if (cell !== null) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    pen.strokeRect(LEFT + cell.n * step, cell.k * row, Math.max(step, 3), row);
  }
  Object.assign(map, { row, step });
  byId("map-low").textContent = short(low) + map.unit;
  byId("map-high").textContent = short(high) + map.unit;
  read();
}

function read() {
  const { k, n } = cell ?? { k: 0, n: map.time.length - 1 }, value = map.values[k]?.[n];
  // The newest value would be spoken all the time.
  byId("map-read").setAttribute("aria-live", cell === null ? "off" : "polite");
  byId("map-read").textContent = `Layer ${k + 1} at ${clock(map.time[n])}: ${value === null || value === undefined ? "–" : short(value) + map.unit}`;
  byId("map").setAttribute("aria-label", `${map.title}, of ${map.values.length} layers; the arrow keys read values`);
}

function choose(k, n) {
  cell = { k: Math.min(Math.max(k, 0), map.values.length - 1), n: Math.min(Math.max(n, 0), map.time.length - 1) };
  drawMap();
}

function walk(event) {
  const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (by === undefined || map === null) return;
  event.preventDefault();
  const from = cell ?? { k: 0, n: map.time.length - 1 };
  choose(from.k + by[0], from.n + by[1]);
}

function point(event) {
  if (map !== null) choose(Math.floor(event.offsetY / map.row), Math.floor((event.offsetX - LEFT) / map.step));
}
