// Draws each panel of a console page from what Prometheus kept over the last quarter of an hour.
"use strict";

const WINDOW = 900, STEP = 5, EVERY = 5000;
// Told apart without colour too.
const STROKES = ["#3b7ddd", "#d9822b", "#2b9a66", "#a55fc9", "#c94f6d", "#7a8b99"];
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [1, 4]];

function said(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "ratio") return (100 * value).toPrecision(3) + " %";
  if (unit === "s") return value < 1 ? (1000 * value).toPrecision(3) + " ms" : value.toPrecision(3) + " s";
  const steps = ["", "k", "M", "G", "T"];
  let step = 0;
  while (Math.abs(value) >= 1000 && step < 4) { value /= 1000; step += 1; }
  return Number(value.toPrecision(3)) + steps[step] + (unit.startsWith("bytes") ? " " + unit.replace("bytes", "B") : "");
}

async function series(body, end) {
  const query = new URLSearchParams({ query: body.dataset.expr, start: end - WINDOW, end, step: STEP });
  const answer = await fetch(`../api/v1/query_range?${query}`);
  const found = (await answer.json()).data.result;
  return found.map(({ metric, values }) => ({
    label: body.dataset.legend.replace(/\[\[(\w+)\]\]/g, (_, name) => metric[name] ?? ""),
    values: new Map(values.map(([time, value]) => [time, Number(value)])),
  }));
}

async function draw(panel) {
  const end = Math.floor(Date.now() / 1000 / STEP) * STEP, unit = panel.dataset.unit;
  const lines = (await Promise.all([...panel.querySelectorAll("tbody")].map((body) => series(body, end)))).flat();
  const times = Array.from({ length: WINDOW / STEP + 1 }, (_, n) => end - WINDOW + n * STEP);
  const data = [times, ...lines.map((line) => times.map((time) => {
    const value = line.values.get(time);
    return Number.isFinite(value) ? value : null;
  }))];
  const ink = getComputedStyle(document.body).color;
  const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884" } };
  const chart = panel.querySelector(".chart");
  chart.replaceChildren();
  new uPlot({
    width: chart.clientWidth, height: 180, cursor: { y: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1] } },
    axes: [axis, { ...axis, size: 70, values: (_, ticks) => ticks.map((tick) => said(tick, unit)) }],
    series: [{}, ...lines.map(({ label }, n) => ({
      label, stroke: STROKES[n % 6], dash: DASHES[n % 6], width: 2, value: (_, value) => said(value, unit),
    }))],
  }, data, chart);
}

function drawAll() {
  document.querySelectorAll(".panel").forEach((panel) => draw(panel).catch(() => {}));
}

drawAll();
setInterval(drawAll, EVERY);
