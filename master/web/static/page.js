// Asks the master how the run goes, and shows it. Nothing here changes anything, and nothing comes from elsewhere.
"use strict";

const STATUS_MS = 1000, HISTORY_MS = 2000;
const STATES = {
  training: ["●", "good", "training"], done: ["✓", "good", "done"], late: ["▲", "warn", "late"],
  vacant: ["○", "bad", "no slave"],
};
const byId = (id) => document.getElementById(id);

function made(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Numbers as a person reads them ---------------------------------------------------------------------------
const whole = (value) => Math.round(value).toLocaleString("en");
const short = (value) => (value >= 100 || value === 0 ? whole(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
const percent = (part) => `${(100 * part).toFixed(1)} %`;
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const clock = (time) => new Date(1000 * time).toLocaleTimeString("en-GB");

function quantile(counts, part) {
  const pairs = Object.entries(counts).map(([value, often]) => [Number(value), often]).sort((a, b) => a[0] - b[0]);
  const total = pairs.reduce((sum, [, often]) => sum + often, 0);
  let seen = 0;
  for (const [value, often] of pairs) {
    seen += often;
    if (seen >= part * total) return value;
  }
  return null;
}

function added(all) {
  const sum = {};
  for (const counts of all) for (const [value, often] of Object.entries(counts)) sum[value] = (sum[value] ?? 0) + often;
  return sum;
}

// The head -------------------------------------------------------------------------------------------------
function showHead(status) {
  const { run, evaluation } = status, part = status.of_batches ? status.batches / status.of_batches : 0;
  const taken = status.seats.filter((seat) => seat.incarnation).length;
  document.title = `${Math.floor(100 * part)} % ${status.name}`;
  byId("name").textContent = status.name;
  const states = {
    training: ["● training", "good"], done: ["✓ done", "good"],
    waiting: [`○ waiting: ${taken} of ${plural(status.seats.length, "slave")} there`, "warn"],
  };
  const [text, kind] = states[status.state];
  byId("state").textContent = text;
  byId("state").className = `chip ${kind}`;
  const method = run.gradient ? `${run.unlock} (${run.gradient})` : run.unlock;
  byId("what").textContent = `${run.model} on ${run.dataset} in ${plural(layersOf(status).length, "layer")}, ` +
    `unlock ${method}, profile ${run.profile}, ${run.batch_size} examples a batch`;
  byId("bar").style.width = percent(part);
  byId("progress").textContent = `Batch ${whole(status.batches)} of ${whole(status.of_batches)} (${Math.floor(100 * part)} %)` +
    `, ${whole(status.training_seconds)} s of training`;
  const staleness = status.counters.staleness;
  const figures = [
    ...measures(run, evaluation),
    ["samples a second", status.state === "done" ? "–" : whole(status.samples_per_second)],
    ["staleness of pushes", spread(staleness)], ["delay of gradients", spread(status.delays)],
    ["pushes", whole(status.counters.pushes)], ["lost batches", whole(status.lost_batches)],
    ...(status.lost_states ? [["lost states", whole(status.lost_states)]] : []),
  ];
  byId("figures").replaceChildren(...figures.map(([name, value]) =>
    made("div", {}, made("dt", {}, name), made("dd", { "data-figure": name }, value))));
}

// Metrics of the task (the loss of a task without any), then those of units' own.
const RISING = ["longest_solved", "level"];
const metricTitle = (name) => RISING.includes(name) ? name.replaceAll("_", " ") : `test ${name.replace(/_percent$/, "").replaceAll("_", " ")}`;
const metricText = (name, value) => (value === null || value === undefined ? "–" : name.endsWith("_percent") ? `${value.toFixed(2)} %` : RISING.includes(name) ? whole(value) : short(value));
const metricsOf = (evaluation) => ({ ...evaluation.metrics, loss: evaluation.test_loss });

function measures(run, evaluation) {
  const known = evaluation.batches ? metricsOf(evaluation) : {}, names = run.metrics.filter((name) => !evaluation.batches || name in known);
  const own = Object.keys(known).filter((name) => /^unit_\d+_/.test(name)).sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  return [...(names.length ? names : ["loss"]), ...own].map((name) => [metricTitle(name), metricText(name, known[name])]);
}

function evaluated(event) {
  const known = metricsOf(event), name = (last?.run.metrics ?? []).find((each) => each in known) ?? "loss";
  return `${metricTitle(name)} ${metricText(name, known[name])} at batch ${whole(event.batches)}`;
}

function spread(counts) {
  const middle = quantile(counts, 0.5);
  return middle === null ? "–" : `${middle} (99 %: ${quantile(counts, 0.99)})`;
}

// What is wrong --------------------------------------------------------------------------------------------
let lostSince = null;

function problems(status) {
  const found = (status?.problems ?? []).map(({ what, advice }) => [what, advice]);
  if (lostSince !== null) {
    found.unshift([`the master has not answered since ${clock(lostSince)}`, "below is what was last known; slaves go on by themselves"]);
  }
  return found;
}

function showProblems(status) {
  byId("problems").replaceChildren(...problems(status).map(([what, advice]) => made("li", {}, `▲ ${what} → ${advice}`)));
}

// The layers -----------------------------------------------------------------------------------------------
function layersOf(status) {
  const layers = new Map();
  for (const seat of status.seats) layers.set(seat.layer, [...(layers.get(seat.layer) ?? []), seat]);
  return [...layers.entries()].sort((a, b) => a[0] - b[0]);
}

function showNetwork(status) {
  const layers = layersOf(status), parts = [made("div", { class: "end" }, "data x")];
  const rate = (seats) => seats.reduce((sum, seat) => sum + (seat.incarnation ? seat.telemetry.samples_per_second : 0), 0);
  parts.push(between("x", null));
  layers.forEach(([layer, seats], n) => {
    parts.push(layerBox(layer, seats, status));
    if (n + 1 === layers.length) return;
    const there = [...seats, ...layers[n + 1][1]].every((seat) => seat.incarnation);
    const delay = quantile(added(seats.map((seat) => seat.telemetry.delays)), 0.5);
    const forward = `h: ${short(rate(seats) / status.run.batch_size)} batches/s`;
    parts.push(between(forward, delay === null ? "δ" : `δ: ${plural(delay, "batch").replace("batchs", "batches")} late`, there));
  });
  parts.push(between("h", "δ"), made("div", { class: "end" }, "loss L"));
  byId("network").replaceChildren(...parts);
  showMaster(status);
}

// Counters of a moment ago, for rates.
let before = null;

function showMaster(status) {
  const now = { time: performance.now() / 1000, ...status.counters };
  if (before === null || now.time - before.time > 4 || now.pushes < before.pushes) before = { ...now, time: now.time - 1e9 };
  const rate = (name) => (now[name] - before[name]) / (now.time - before.time);
  const through = status.run.profile === "light" ? "everything between slaves goes through it" : "slaves talk to each other directly";
  const moved = rate("bytes_received") + rate("bytes_sent");
  byId("master").replaceChildren(
    made("h3", {}, "⇅ Master"), made("span", {}, `${short(rate("pushes"))} pushes/s in`),
    made("span", {}, `${short(rate("pulls"))} pulls/s out`),
    made("span", {}, `${short(moved / 1e6)} MB/s (${through})`));
  // The rates of the last few seconds.
  if (now.time - before.time > 3 || before.time < 0) before = now;
}

function between(forward, back, there = true) {
  const broken = there ? "" : " broken";
  const arrows = [made("div", { class: `arrow on${broken}` }, forward)];
  if (back !== null) arrows.push(made("div", { class: `arrow back${broken}` }, back));
  return made("div", { class: "between" }, ...arrows);
}

function layerBox(layer, seats, status) {
  const lacking = seats.some((seat) => seat.state === "vacant") ? " lacking" : "";
  const version = status.versions[`${layer}/weights`] ?? 0;
  const title = made("h3", {}, `Layer ${layer}`, made("span", {}, `version ${whole(version)}`));
  return made("div", { class: `layer${lacking}`, "data-layer": layer }, title, ...seats.map((seat) => slaveCard(seat, seats.length, status.curriculum)));
}

const levelOf = (levels, batch) => levels.starts.filter((start) => start <= batch).length;

function slaveCard(seat, replicas, levels) {
  const [icon, kind, word] = STATES[seat.state], told = seat.telemetry;
  const replica = replicas > 1 ? `replica ${seat.replica}: ` : "";
  const head = made("div", { class: kind }, `${icon} ${replica}${word}`);
  if (!seat.incarnation) {
    return made("div", { class: "slave", "data-state": seat.state }, head, made("div", { class: "quiet" }, "waiting for a slave to take over"));
  }
  const replaced = seat.grants > 1 ? ` (slave number ${seat.grants} here)` : "";
  const rows = [
    ["samples/s", short(told.samples_per_second)], ["at batch", whole(told.next_batch)],
    ["without gradient", whole(told.in_flight)],
    ["waiting", told.step_seconds ? percent(told.waiting_seconds / told.step_seconds) : "–"],
  ];
  if (told.loss) rows.push(["training loss", told.loss.toFixed(4)]);
  if (levels.starts.length) rows.push(["level", told.next_batch < levels.decided ? whole(levelOf(levels, told.next_batch)) : "waits for its decision"]);
  if (told.own_loss) rows.push(["units' own losses", told.own_loss.toFixed(4)]);
  if (told.gradient_cosine) rows.push(["M's gradient: cosine", told.gradient_cosine.toFixed(2)]);
  if (told.time_cosine) rows.push(["M in time: cosine", told.time_cosine.toFixed(2)]);
  return made("div", { class: "slave", "data-state": seat.state, "data-incarnation": seat.incarnation }, head,
    made("div", { class: "who" }, `${seat.host}:${seat.pid}`), made("div", { class: "quiet" }, `${seat.device}${replaced}`),
    made("table", {}, ...rows.map(([name, value]) => made("tr", {}, made("th", { scope: "row" }, name), made("td", {}, value)))));
}

// Charts ---------------------------------------------------------------------------------------------------
const CHARTS = [
  { title: "Test metric", unit: "", rare: true, series: [["test", "metric"]] },
  { title: "Samples a second", unit: "", series: [["through the network", "samples_per_second"]] },
  { title: "Staleness of pushes", unit: "", series: [["middle", "staleness_p50"], ["99 %", "staleness_p99"]] },
  { title: "Delay of gradients, in batches", unit: "", series: [["middle", "delay_p50"], ["99 %", "delay_p99"]] },
];
let drawn = [];

// The first chart shows the first metric of the task, which the first answer of the master names.
function nameChart(run) {
  const name = run.metrics[0] ?? "loss", title = metricTitle(name), chart = CHARTS[0];
  if (chart.series[0][0] === title) return;
  Object.assign(chart, { title: title[0].toUpperCase() + title.slice(1), unit: name.endsWith("_percent") ? " %" : "", series: [[title, "metric"]] });
  buildCharts();
}

function buildCharts() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  drawn.forEach((each) => each.plot.destroy());
  byId("charts").replaceChildren();
  // All of them first: how wide each is depends on how many there are.
  const boxes = CHARTS.map((chart) => made("div", { class: "chart" }, made("h3", {}, `${chart.title} `, made("span", { class: "quiet" }))));
  byId("charts").append(...boxes);
  drawn = CHARTS.map((chart, place) => {
    const box = boxes[place];
    const lines = chart.series.map(([label], n) => ({
      // Told apart by dashes as well as by colour.
      label, stroke: colour(n ? "--warn" : "--accent"), width: 2, dash: n ? [7, 4] : [], spanGaps: chart.rare ?? false,
      points: { show: false }, value: (_, value) => (value === null ? "–" : short(value) + chart.unit),
    }));
    const plot = new uPlot({
      width: box.clientWidth - 20, height: 190, cursor: { y: false },
      legend: { markers: { dash: (_, n) => (n === 2 ? "dashed" : "solid") } },
      scales: { y: { range: (_, low, high) => [0, high > 0 ? 1.1 * high : 1] } },
      axes: [{ ...axis, values: "{HH}:{mm}:{ss}", space: 70 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => whole100(tick) + chart.unit) }],
      series: [{ label: "time", value: (_, time) => (time === null ? "–" : clock(time)) }, ...lines],
    }, [[], ...chart.series.map(() => [])], box);
    return { plot, box, names: chart.series.map(([, name]) => name) };
  });
  fillCharts();
}

const whole100 = (value) => Number(value.toFixed(2)).toLocaleString("en");
let moments = null;

function fillCharts() {
  if (moments === null) return;
  for (const { plot, box, names } of drawn) {
    const columns = names.map((name) => moments[name]);
    plot.setData([moments.time, ...columns]);
    const empty = columns.every((column) => column.every((value) => value === null));
    box.querySelector("h3 span").textContent = empty ? "nothing measured yet" : "";
  }
}

function fitCharts() {
  for (const { plot, box } of drawn) plot.setSize({ width: box.clientWidth - 20, height: 190 });
}

// Events ---------------------------------------------------------------------------------------------------
const SAID = {
  started: (e) => ["↻", "", e.starts > 1 ? `the master was started again (start ${e.starts})` : "the master was started"],
  stopped: () => ["■", "", "the master was stopped"],
  joined: (e) => ["●", "good", `layer ${e.layer}: a slave joined${of(e)}`],
  replaced: (e) => ["●", "good", `layer ${e.layer}: a slave took over${of(e)}`],
  failed: (e) => ["✕", "bad", `layer ${e.layer}: its slave failed, ${e.why}`],
  left: (e) => ["✕", "warn", `layer ${e.layer}: its slave left${e.why ? `: ${e.why}` : ""}`],
  fenced: (e) => ["✕", "warn", `layer ${e.layer}: its slave was fenced off: ${e.why}`],
  level: (e) => ["▲", "good", `level ${e.level} begins at batch ${whole(e.batch)}`],
  done: (e) => ["✓", "good", `layer ${e.layer}: through all batches`],
  evaluated: (e) => ["◇", "", evaluated(e)],
  snapshot: (e) => ["▣", "", `snapshot ${e.number} was taken`],
  "no snapshot": (e) => ["✕", "bad", `no snapshot could be taken: ${e.why}`],
  "rolled back": (e) => ["↶", "warn", `the run was put back to snapshot ${e.snapshot}`],
};
const of = (event) => (event.replica ? `, replica ${event.replica}` : "");

function showEvents(events) {
  const newestSnapshot = events.findLastIndex((event) => event.event === "snapshot");
  const shown = events.filter((event, n) => event.event !== "snapshot" || n === newestSnapshot).reverse().slice(0, 100);
  byId("events").replaceChildren(...shown.map((event) => {
    const [icon, kind, text] = (SAID[event.event] ?? ((e) => ["·", "", `${e.event} ${e.why ?? ""}`]))(event);
    return made("li", {}, made("time", {}, clock(event.time)), made("span", { class: kind, "aria-hidden": "true" }, icon), made("span", {}, text));
  }));
}

// Asking ---------------------------------------------------------------------------------------------------
let last = null;

async function asked(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function showStatus() {
  try {
    last = await asked("status");
    lostSince = null;
  } catch {
    lostSince ??= Date.now() / 1000;
  }
  if (last !== null && lostSince === null) {
    nameChart(last.run);
    showHead(last);
    showNetwork(last);
  } else {
    byId("state").textContent = "▲ master away";
    byId("state").className = "chip bad";
  }
  showProblems(last);
}

async function showHistory() {
  try {
    const history = await asked("history");
    moments = history.moments;
    fillCharts();
    showEvents(history.events);
  } catch {
    // showStatus says that the master is away.
  }
}

// One question at a time, and none while nobody looks.
async function forever(show, pause) {
  for (;;) {
    if (!document.hidden) await show();
    await new Promise((done) => setTimeout(done, pause));
  }
}

buildCharts();
window.addEventListener("resize", fitCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", buildCharts);
forever(showStatus, STATUS_MS);
forever(showHistory, HISTORY_MS);
