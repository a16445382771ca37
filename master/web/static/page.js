// Asks the master how the run goes, and shows it. Nothing here changes anything, and nothing comes from elsewhere.
import { byId, clock, made, metricText, metricTitle, metricsOf, percent, plural, short, spread, update, whole } from "./format.js";
import { buildCharts, fillCharts, fitCharts, nameChart, redrawCharts } from "./charts.js";
import { layersOf, showNetwork } from "./network.js";
import { fillLayers, fitLayers, nameMeasure, prepareLayers, redrawLayers } from "./layers.js";
import { compare, fitEarlier, nameMetric, prepareEarlier, redrawEarlier } from "./earlier.js";
import { prepareCopies, showCommands } from "./about.js";

const STATUS_MS = 1000, HISTORY_MS = 2000, LAYERS_MS = 3000;

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
  byId("bar").style.width = `${100 * part}%`;
  byId("bar").parentElement.setAttribute("aria-valuenow", Math.floor(100 * part));
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
  update(byId("figures"), ...figures.map(([name, value]) =>
    made("div", {}, made("dt", {}, name), made("dd", { "data-figure": name }, value))));
}

function measures(run, evaluation) {
  const known = evaluation.batches ? metricsOf(evaluation) : {}, names = run.metrics.filter((name) => !evaluation.batches || name in known);
  const own = Object.keys(known).filter((name) => /^unit_\d+_/.test(name)).sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  return [...(names.length ? names : ["loss"]), ...own].map((name) => [metricTitle(name), metricText(name, known[name])]);
}

function evaluated(event) {
  const known = metricsOf(event), name = (last?.run.metrics ?? []).find((each) => each in known) ?? "loss";
  return `${metricTitle(name)} ${metricText(name, known[name])} at batch ${whole(event.batches)}`;
}

// Stores ---------------------------------------------------------------------------------------------------
const STORE_STATES = { serving: ["●", "good"], late: ["✕", "bad"], awaited: ["○", "warn"] };

function showStores(stores) {
  byId("stores").hidden = stores.length === 0;
  const head = ["store", "state", "shards", "MB", "pushes", "pulls"].map((title) => made("th", { scope: "col" }, title));
  const wide = { class: "wide" };
  head.push(...["cores", "disk", "process"].map((title) => made("th", { scope: "col", ...wide }, title)));
  const rows = stores.map((store) => {
    const [icon, kind] = STORE_STATES[store.state], used = store.utilization, there = store.state !== "awaited";
    const cells = [store.shards.length, short(store.nbytes / 1e6), whole(store.counters.pushes), whole(store.counters.pulls)];
    const more = there ? [(used.cpu_percent / 100).toFixed(2), percent(used.disk_percent / 100), `${store.host}:${store.pid}`] : ["–", "–", "–"];
    const state = store.state === "late" ? `late: silent for ${whole(store.report_age)} s` : store.state;
    return made("tr", { "data-store": store.number }, made("th", { scope: "row" }, `${store.number}`),
      made("td", { class: kind }, `${icon} ${state}`), ...cells.map((cell) => made("td", {}, `${cell}`)),
      ...more.map((cell) => made("td", wide, cell)));
  });
  update(byId("stores"), made("table", {}, made("thead", {}, made("tr", {}, ...head)), made("tbody", {}, ...rows)));
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
  update(byId("problems"), ...problems(status).map(([what, advice]) => made("li", {}, `▲ ${what} → ${advice}`)));
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
  "store joined": (e) => ["●", "good", `store ${e.store} joined at ${e.address}`],
  "store late": (e) => ["✕", "bad", `store ${e.store}: ${e.why}`],
  "store back": (e) => ["●", "good", `store ${e.store} reports again`],
  dealt: (e) => ["·", "", `shard ${e.shard} was dealt to store ${e.store}`],
  evaluated: (e) => ["◇", "", evaluated(e)],
  snapshot: (e) => ["▣", "", `snapshot ${e.number} was taken`],
  "no snapshot": (e) => ["✕", "bad", `no snapshot could be taken: ${e.why}`],
  "rolled back": (e) => ["↶", "warn", `the run was put back to snapshot ${e.snapshot}`],
};
const of = (event) => (event.replica ? `, replica ${event.replica}` : "");

function showEvents(events) {
  const newestSnapshot = events.findLastIndex((event) => event.event === "snapshot");
  const shown = events.filter((event, n) => event.event !== "snapshot" || n === newestSnapshot).reverse().slice(0, 100);
  update(byId("events"), ...shown.map((event) => {
    const [icon, kind, text] = (SAID[event.event] ?? ((e) => ["·", "", `${e.event} ${e.why ?? ""}`]))(event);
    return made("li", {}, made("time", {}, clock(event.time)), made("span", { class: kind, "aria-hidden": "true" }, icon), made("span", {}, text));
  }));
}

// Asking ---------------------------------------------------------------------------------------------------
let last = null;

async function asked(path) {
  // An address of its own: with a password in the page's address a browser would not ask.
  const answer = await fetch(new URL(path, location.origin + location.pathname), { cache: "no-store", signal: AbortSignal.timeout(5000) });
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
    nameMetric(last.run);
    nameMeasure(last.run);
    showHead(last);
    showNetwork(last);
    showStores(last.stores);
  } else {
    byId("state").textContent = "▲ master away";
    byId("state").className = "chip bad";
  }
  showProblems(last);
}

async function showHistory() {
  try {
    const history = await asked("history");
    fillCharts(history.moments);
    compare();
    showEvents(history.events);
  } catch {
    // showStatus says that the master is away.
  }
}

async function showLayers() {
  if (!byId("layers").open) return;
  try {
    fillLayers(await asked(`layers/${byId("measure").value}`));
  } catch {
    // Likewise.
  }
}

async function showAbout() {
  if (byId("about").open) showCommands(await asked("commands"));
}

// One question at a time, and none while nobody looks.
async function forever(show, pause) {
  for (;;) {
    if (!document.hidden) await show();
    await new Promise((done) => setTimeout(done, pause));
  }
}

prepareLayers();
prepareEarlier();
prepareCopies();
buildCharts();
byId("layers").addEventListener("toggle", showLayers);
byId("measure").addEventListener("change", showLayers);
byId("about").addEventListener("toggle", showAbout);
window.addEventListener("resize", () => [fitCharts, fitLayers, fitEarlier].forEach((fit) => fit()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [redrawCharts, redrawLayers, redrawEarlier].forEach((draw) => draw()));
forever(showStatus, STATUS_MS);
forever(showHistory, HISTORY_MS);
forever(showLayers, LAYERS_MS);
