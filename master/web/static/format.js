// Numbers and metrics as a person reads them, and elements brought up to date in place.
export const byId = (id) => document.getElementById(id);

export function made(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Gives an element these children, and leaves alone what is equal: focus, selection and a screen reader's place stay,
// and a live region speaks only of changes.
export function update(parent, ...children) {
  children.forEach((child, n) => {
    const old = parent.childNodes[n];
    const fresh = typeof child === "string" ? document.createTextNode(child) : child;
    if (old === undefined) parent.append(fresh);
    else patch(old, fresh);
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return undefined;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  return update(old, ...fresh.childNodes);
}

export const whole = (value) => Math.round(value).toLocaleString("en");
export const short = (value) => {
  const size = Math.abs(value);
  return size >= 100 || value === 0 ? whole(value) : size >= 10 ? value.toFixed(1) : size >= 0.095 ? value.toFixed(2) : value.toPrecision(2);
};
export const percent = (part) => `${(100 * part).toFixed(1)} %`;
export const plural = (count, word, words = `${word}s`) => `${whole(count)} ${count === 1 ? word : words}`;
export const clock = (time) => new Date(1000 * time).toLocaleTimeString("en-GB");

export function quantile(counts, part) {
  const pairs = Object.entries(counts).map(([value, often]) => [Number(value), often]).sort((a, b) => a[0] - b[0]);
  const total = pairs.reduce((sum, [, often]) => sum + often, 0);
  let seen = 0;
  for (const [value, often] of pairs) {
    seen += often;
    if (seen >= part * total) return value;
  }
  return null;
}

export function added(all) {
  const sum = {};
  for (const counts of all) for (const [value, often] of Object.entries(counts)) sum[value] = (sum[value] ?? 0) + often;
  return sum;
}

export function spread(counts) {
  const middle = quantile(counts, 0.5);
  return middle === null ? "–" : `${middle} (99 %: ${quantile(counts, 0.99)})`;
}

// Metrics of the task (the loss of a task without any), then those of units' own.
const RISING = ["longest_solved", "level"];
export const metricTitle = (name) => RISING.includes(name) ? name.replaceAll("_", " ") : `test ${name.replace(/_percent$/, "").replaceAll("_", " ")}`;
export const metricUnit = (name) => (name.endsWith("_percent") ? " %" : "");
export const metricText = (name, value) => (value === null || value === undefined ? "–" : name.endsWith("_percent") ? `${value.toFixed(2)} %` : RISING.includes(name) ? whole(value) : short(value));
export const metricsOf = (evaluation) => ({ ...evaluation.metrics, loss: evaluation.test_loss });
export const capital = (text) => text[0].toUpperCase() + text.slice(1);
