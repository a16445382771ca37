// The layers and the slaves that train them: a picture of a few layers, a table of many.
import { added, byId, made, percent, plural, quantile, short, update, whole } from "./format.js";

const MOST_IN_PICTURE = 6, MOST_ROWS = 200;
const STATES = {
  training: ["●", "good", "training"], done: ["✓", "good", "done"], late: ["▲", "warn", "late"],
  vacant: ["○", "bad", "no slave"],
};

export function layersOf(status) {
  const layers = new Map();
  for (const seat of status.seats) layers.set(seat.layer, [...(layers.get(seat.layer) ?? []), seat]);
  return [...layers.entries()].sort((a, b) => a[0] - b[0]);
}

export function showNetwork(status) {
  const layers = layersOf(status), many = layers.length > MOST_IN_PICTURE;
  byId("network").hidden = many;
  byId("seats").hidden = !many;
  update(byId("network"), ...(many ? [] : picture(layers, status)));
  update(byId("seats"), ...(many ? [table(layers, status)] : []));
  showMaster(status);
}

function picture(layers, status) {
  const parts = [made("div", { class: "end" }, "data x")];
  const rate = (seats) => seats.reduce((sum, seat) => sum + (seat.incarnation ? seat.telemetry.samples_per_second : 0), 0);
  parts.push(between("x", null));
  layers.forEach(([layer, seats], n) => {
    parts.push(layerBox(layer, seats, status));
    if (n + 1 === layers.length) return;
    const there = [...seats, ...layers[n + 1][1]].every((seat) => seat.incarnation);
    const delay = quantile(added(seats.map((seat) => seat.telemetry.delays)), 0.5);
    const forward = `h: ${short(rate(seats) / status.run.batch_size)} batches/s`;
    parts.push(between(forward, delay === null ? "δ" : `δ: ${plural(delay, "batch", "batches")} late`, there));
  });
  parts.push(between("h", "δ"), made("div", { class: "end" }, "loss L"));
  return parts;
}

// Counters of a moment ago, for rates.
let before = null;

function showMaster(status) {
  const now = { time: performance.now() / 1000, ...status.counters };
  if (before === null || now.time - before.time > 4 || now.pushes < before.pushes) before = { ...now, time: now.time - 1e9 };
  const rate = (name) => (now[name] - before[name]) / (now.time - before.time);
  const through = status.run.profile === "light" ? "everything between slaves goes through the master" : "slaves talk to each other directly";
  const moved = rate("bytes_received") + rate("bytes_sent");
  update(byId("master"),
    made("h3", {}, status.stores.length ? "⇅ Master and stores" : "⇅ Master"), made("span", {}, `${short(rate("pushes"))} pushes/s in`),
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

const lacks = (seats) => (seats.some((seat) => seat.state === "vacant") ? " lacking" : "");
const versionOf = (layer, status) => whole(status.versions[`${layer}/weights`] ?? 0);

function layerBox(layer, seats, status) {
  const title = made("h3", {}, `Layer ${layer}`, made("span", {}, `version ${versionOf(layer, status)}`));
  return made("div", { class: `layer${lacks(seats)}`, "data-layer": layer }, title, ...seats.map((seat) => slaveCard(seat, seats.length, status.curriculum)));
}

const levelOf = (levels, batch) => levels.starts.filter((start) => start <= batch).length;
const levelText = (levels, told) => (told.next_batch < levels.decided ? whole(levelOf(levels, told.next_batch)) : "waits for its decision");
const waitingText = (told) => (told.step_seconds ? percent(told.waiting_seconds / told.step_seconds) : "–");

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
    ["without gradient", whole(told.in_flight)], ["waiting", waitingText(told)],
  ];
  if (told.loss) rows.push(["training loss", told.loss.toFixed(4)]);
  if (levels.starts.length) rows.push(["level", levelText(levels, told)]);
  if (told.own_loss) rows.push(["units' own losses", told.own_loss.toFixed(4)]);
  if (told.gradient_cosine) rows.push(["M's gradient: cosine", told.gradient_cosine.toFixed(2)]);
  if (told.time_cosine) rows.push(["M in time: cosine", told.time_cosine.toFixed(2)]);
  return made("div", { class: "slave", "data-state": seat.state, "data-incarnation": seat.incarnation }, head,
    made("div", { class: "who" }, `${seat.host}:${seat.pid}`), made("div", { class: "quiet" }, `${seat.device}${replaced}`),
    made("table", {}, made("tbody", {}, ...rows.map(([name, value]) => made("tr", {}, made("th", { scope: "row" }, name), made("td", {}, value))))));
}

// Columns of the table: title, text of a seat, whether a narrow window leaves it out, and whether the run has it.
const COLUMNS = [
  { title: "samples/s", text: (seat) => short(seat.telemetry.samples_per_second) },
  { title: "at batch", text: (seat) => whole(seat.telemetry.next_batch) },
  { title: "waiting", text: (seat) => waitingText(seat.telemetry), wide: true },
  { title: "δ late", text: (seat) => quantile(seat.telemetry.delays, 0.5) ?? "–", wide: true },
  { title: "loss", text: (seat) => seat.telemetry.loss.toFixed(3), has: (seat) => seat.telemetry.loss, wide: true },
  { title: "M's cosine", text: (seat) => seat.telemetry.gradient_cosine.toFixed(2), has: (seat) => seat.telemetry.gradient_cosine },
  { title: "M in time", text: (seat) => seat.telemetry.time_cosine.toFixed(2), has: (seat) => seat.telemetry.time_cosine, wide: true },
  { title: "level", text: (seat, levels) => levelText(levels, seat.telemetry), has: (_, levels) => levels.starts.length, wide: true },
  { title: "version", text: (seat, _, status) => versionOf(seat.layer, status), wide: true },
  { title: "slave", text: (seat) => (seat.text ? "–" : `${seat.host}:${seat.pid} ${seat.device}`), wide: true },
];

// A row for many replicas: their sums, their means, and the slave that is furthest behind.
const MEANS = ["loss", "gradient_cosine", "time_cosine"];
const WORST = ["vacant", "late", "training", "done"];

function summary(seats) {
  const there = seats.filter((seat) => seat.incarnation), told = there.map((seat) => seat.telemetry);
  const sum = (name) => told.reduce((total, each) => total + each[name], 0);
  const means = Object.fromEntries(MEANS.map((name) => [name, told.length ? sum(name) / told.length : 0]));
  const sums = Object.fromEntries(["samples_per_second", "waiting_seconds", "step_seconds"].map((name) => [name, sum(name)]));
  const telemetry = { ...told[0], ...means, ...sums, next_batch: Math.min(...told.map((each) => each.next_batch)), delays: added(told.map((each) => each.delays)) };
  const state = WORST.find((each) => seats.some((seat) => seat.state === each));
  const words = WORST.map((each) => [seats.filter((seat) => seat.state === each).length, STATES[each][2]]).filter(([count]) => count);
  return { layer: seats[0].layer, state, telemetry, incarnation: there.length, text: words.map(([count, word]) => `${whole(count)} ${word}`).join(", ") };
}

// With many seats a layer has a row for all replicas, and one for each that lacks its slave or hears nothing of it.
function rowsOf(seats, many) {
  const troubled = seats.filter((seat) => ["vacant", "late"].includes(seat.state));
  return many && seats.length > 1 ? [summary(seats), ...troubled] : seats;
}

function table(layers, status) {
  const levels = status.curriculum, has = (column) => (seat) => !column.has || column.has(seat, levels);
  const columns = COLUMNS.filter((column) => status.seats.some(has(column)));
  const kind = (column) => (column.wide ? "wide" : null);
  const head = ["layer", "state"].map((title) => made("th", { scope: "col" }, title));
  const titles = columns.map((column) => made("th", { scope: "col", class: kind(column) }, column.title));
  const bodies = layers.map(([layer, seats]) => made("tbody", { class: `layer${lacks(seats)}`, "data-layer": layer },
    ...rowsOf(seats, status.seats.length > MOST_ROWS).map((seat) => {
      const [icon, state, word] = STATES[seat.state];
      const text = (column) => (seat.incarnation && has(column)(seat) ? String(column.text(seat, levels, status)) : "–");
      const replica = seat.text ? `, ${whole(seats.length)} replicas` : seats.length > 1 ? `, replica ${seat.replica}` : "";
      return made("tr", { class: "slave", "data-state": seat.state, "data-incarnation": seat.incarnation || null },
        made("th", { scope: "row" }, `${layer}${replica}`),
        made("td", { class: state }, `${icon} ${seat.text ?? word}`), ...columns.map((column) => made("td", { class: kind(column) }, text(column))));
    })));
  return made("table", {}, made("thead", {}, made("tr", {}, ...head, ...titles)), ...bodies);
}
