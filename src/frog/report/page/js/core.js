// The data of the page, small makers of elements, and how numbers are written.

const data = JSON.parse(document.getElementById("frog-data").textContent);
const layers = data.layers;
const count = layers.name.length;
const metricOf = new Map(data.metrics.map((metric) => [metric.key, metric]));
const NONE = "–";

const byId = (id) => document.getElementById(id);

// An element; texts are always set as text, never as HTML: names may hold anything.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);

// The value of a metric for a layer: null where there is none. Set anew by the page of a series.
let valueOf = (key, i) => {
  const value = data.values[key]?.[i];
  return isNumber(value) ? value : null;
};

const valuesOf = (key) => Array.from({ length: count }, (_, i) => valueOf(key, i));

// Three significant digits, a power of ten where the number is very large or small.
function brief(x) {
  if (!isNumber(x)) return NONE;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return String(x).replace("-", "−");
  if (size >= 1e5 || size < 1e-3) return x.toExponential(2).replace("e+", "e").replace(/-/g, "−");
  return x.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size)))).replace("-", "−");
}

// One number of decimals for a whole column, so that its points stand below each other.
const decimals = new Map();
function fixed(key, x) {
  if (!isNumber(x)) return NONE;
  if (metricOf.get(key)?.scale === "log") return brief(x);
  if (!decimals.has(key)) {
    const numbers = valuesOf(key).filter(isNumber);
    const size = median(numbers.map(Math.abs).filter((v) => v > 0)) ?? 1;
    const whole = numbers.every(Number.isInteger);
    decimals.set(key, whole ? 0 : Math.min(5, Math.max(0, 2 - Math.floor(Math.log10(size)))));
  }
  const text = x.toFixed(decimals.get(key));
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

// With its sign, unless it is written as zero.
function signed(key, x) {
  const text = fixed(key, x);
  return isNumber(x) && x > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

const shown = (key, x) => (metricOf.get(key)?.scale === "diverging" ? signed(key, x) : fixed(key, x));

function median(numbers) {
  return quantile(numbers, 0.5);
}

function quantile(numbers, share) {
  const sorted = numbers.filter(isNumber).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  const next = sorted[Math.min(low + 1, sorted.length - 1)];
  return sorted[low] + (place - low) * (next - sorted[low]);
}

function quantity(n) {
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (n >= size) return `${Number((n / size).toPrecision(3))} ${unit}`;
  }
  return String(n);
}

// The first of these metrics that at least half of the layers have, else the first there is.
function preferred(keys) {
  const enough = (key) => metricOf.has(key) && valuesOf(key).filter(isNumber).length >= count / 2;
  return keys.find(enough) ?? keys.find((key) => metricOf.has(key));
}

const plural = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;

// Fill a drop-down list with metrics, grouped where they have groups.
function metricOptions(select, metrics, chosen) {
  const groups = new Map();
  for (const metric of metrics) {
    if (!groups.has(metric.group)) groups.set(metric.group, []);
    const words = metric.title === metric.key ? metric.title : `${metric.title} · ${metric.key.replace(/^\w+:/, "")}`;
    groups.get(metric.group).push(el("option", { value: metric.key, title: metric.help }, words));
  }
  select.replaceChildren();
  for (const [name, options] of groups) {
    if (groups.size === 1) select.append(...options);
    else select.append(el("optgroup", { label: name || "values" }, ...options));
  }
  if (chosen && metricOf.has(chosen)) select.value = chosen;
}

function announce(text) {
  byId("live").textContent = text;
}

// A link to the drawer of a layer.
function layerLink(i, text) {
  return el("a", { class: "layer-link", href: `#layer=${i}`, title: layers.name[i] }, text ?? layers.short[i]);
}

const placeOf = (i) => (layers.block[i] === null ? "" : `block ${layers.block[i]}`);
