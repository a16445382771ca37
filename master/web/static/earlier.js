// Comparison with an earlier run, whose metrics.jsonl the visitor chooses: the browser reads the file, the master does not.
import { byId, capital, made, metricText, metricTitle, metricUnit, metricsOf } from "./format.js";
import { BATCHES, LineChart, history } from "./charts.js";

let earlier = null, chart = null, metric = null;

export function prepareEarlier() {
  byId("earlier-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    earlier = file ? parsed(await file.text()) : null;
    compare();
  });
}

export function nameMetric(run) {
  metric = run.metrics[0] ?? "loss";
}

// The evaluations in the file; a line that a crash tore is passed over.
function parsed(text) {
  const lines = text.split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line)];
    } catch {
      return [];
    }
  });
  return lines.filter((line) => line?.kind === "evaluation");
}

export function compare() {
  const moments = history();
  if (earlier === null || moments === null || metric === null) return;
  const before = new Map(earlier.map((line) => [line.batches, metricsOf(line)[metric]]).filter(([, value]) => Number.isFinite(value)));
  if (!before.size) return say(earlier.length ? `That run has not measured ${metricTitle(metric)}.` : "The file has no evaluation: choose the metrics.jsonl of a run directory.");
  const now = new Map(moments.metric_batches.map((batch, n) => [batch, moments.metric[n]]).filter(([batch]) => batch !== null));
  const batches = [...new Set([...before.keys(), ...now.keys()])].sort((a, b) => a - b);
  if (chart === null) {
    byId("earlier-chart").replaceChildren(made("div", { class: "chart" }));
    const labels = ["this run", "the earlier run"];
    chart = new LineChart(byId("earlier-chart").firstChild, capital(metricTitle(metric)), metricUnit(metric), labels, { x: BATCHES, gaps: false, leads: true });
  }
  chart.set([batches, ...[now, before].map((known) => batches.map((batch) => known.get(batch) ?? null))]);
  say(sentence(now, before));
}

// The newest evaluation here, and the last of the earlier run that is not later.
function sentence(now, before) {
  const last = Math.max(...now.keys()), known = [...before.keys()].filter((batch) => batch <= last);
  if (!now.size) return "This run has not been evaluated yet.";
  const here = `${capital(metricTitle(metric))} at batch ${last}: ${metricText(metric, now.get(last))}`;
  if (!known.length) return `${here}; the earlier run begins at batch ${Math.min(...before.keys())}.`;
  const then = Math.max(...known);
  return `${here}; the earlier run had ${metricText(metric, before.get(then))} at batch ${then}.`;
}

function say(text) {
  if (byId("earlier-result").textContent !== text) byId("earlier-result").textContent = text;
}

export const fitEarlier = () => chart?.fit();
export const redrawEarlier = () => chart?.draw();
