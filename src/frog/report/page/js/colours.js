// Theme, and colours that hold for colour-blind readers on both grounds.

const VIRIDIS = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];
const ABOUT_ZERO = {
  light: ["#0b4f94", "#4a93c8", "#b3d3e9", "#f1f1ef", "#f5cb9f", "#dd8a3c", "#9c4505"],
  dark: ["#6cc0f7", "#3f86bd", "#2c5577", "#2b3036", "#6d4a29", "#b8752f", "#f4a64f"],
};
// Okabe and Ito's eight, yellow and black shifted for the ground that they stand on.
const LINES = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7d00", "#444444"],
  dark: ["#4ea3e0", "#f07b32", "#1fbf91", "#e39bc3", "#f0b429", "#8fd0f5", "#f0e442", "#c9ced3"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star"];

const system = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function lineStyle(name) {
  const place = Math.max(0, data.lines.indexOf(name));
  return {
    colour: LINES[theme()][place % 8],
    dash: DASHES[Math.floor(place / 8) % DASHES.length],
    symbol: SYMBOLS[(place + Math.floor(place / 8)) % 8], // no two of 64 lines have both alike
  };
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function mix(stops, share) {
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(place));
  const [a, b] = [channels(stops[low]), channels(stops[low + 1])];
  return a.map((x, i) => Math.round(x + (place - low) * (b[i] - x)));
}

// Black or white, whichever is easier to read on a colour (relative luminance).
function readableOn(rgb) {
  const [r, g, b] = rgb.map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

// How a metric becomes colour: a function of the value, the two ends, and the ramp for the key.
function colouring(key, numbers) {
  const metric = metricOf.get(key);
  const known = numbers.filter(isNumber);
  const diverging = metric.scale === "diverging";
  const stops = diverging ? ABOUT_ZERO[theme()] : VIRIDIS;
  let low = quantile(known, 0.02) ?? 0;
  let high = quantile(known, 0.98) ?? 1;
  if (diverging) {
    high = Math.max(Math.abs(low), Math.abs(high)) || 1;
    low = -high;
  }
  const step = metric.scale === "log" && low > 0 ? Math.log : (x) => x;
  const [from, to] = [step(low), step(high)];
  const share = (x) => (to > from ? (step(x) - from) / (to - from) : 0.5);
  return {
    low,
    high,
    clipped: known.some((x) => x < low || x > high),
    ramp: `linear-gradient(to right, ${stops.join(", ")})`,
    of: (x) => {
      const rgb = mix(stops, share(x));
      return { ground: `rgb(${rgb.join(",")})`, ink: readableOn(rgb) };
    },
  };
}

const themed = [];
// Call again whenever the theme changes.
function onTheme(act) {
  themed.push(act);
}

function themeChanged(width) {
  const button = byId("theme");
  button.setAttribute("aria-pressed", String(theme() === "dark"));
  for (const act of themed) act(width);
}

function startTheme() {
  let stored = null;
  try {
    stored = localStorage.getItem("frog-theme");
  } catch {
    stored = null; // a page opened as a file may have no storage; the system's wish holds then
  }
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
  byId("theme").setAttribute("aria-pressed", String(theme() === "dark"));
  byId("theme").addEventListener("click", () => {
    const next = theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("frog-theme", next);
    } catch {
      // as above
    }
    themeChanged();
  });
  system.addEventListener("change", () => themeChanged());
}
