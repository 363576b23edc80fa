// plotly.js is unpacked once, after the page stands; every plot is drawn anew with the theme.

const PAPER_WIDTH = 690; // pixels between the margins of A4
const figures = new Map();
let library = null;

function plotly() {
  library ??= unpack();
  return library;
}

async function unpack() {
  const packed = atob(byId("plotly-packed").textContent);
  const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  return window.Plotly;
}

// Draw a figure into an element and keep it up to date; `make` gives {data, layout}, `open` what
// a click on a point with customdata does, `choose` what becomes of points in a frame (null: no
// frame any more).
async function draw(id, make, open, choose) {
  figures.set(id, { make, open, choose });
  await redraw(id);
}

function forget(id) {
  const node = byId(id);
  if (node && window.Plotly) window.Plotly.purge(node);
  figures.delete(id);
}

async function redraw(id, width) {
  const node = byId(id);
  const figure = figures.get(id);
  if (!node || !figure) return;
  let Plotly;
  try {
    Plotly = await plotly();
  } catch (error) {
    node.replaceChildren(el("p", { class: "dim waiting" }, `This browser cannot unpack the plots (${error.message}). The tables hold every number.`));
    return;
  }
  if (figures.get(id) !== figure || !node.isConnected) return;
  node.querySelector(".waiting")?.remove();
  const { data: traces, layout } = figure.make(width ?? node.clientWidth);
  const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], showTips: false };
  figure.drawing = true;
  try {
    await Plotly.react(node, traces, { ...frame(), ...layout, ...(width ? { width } : {}) }, config);
  } finally {
    figure.drawing = false;
  }
  if (!node.dataset.listens) {
    node.dataset.listens = "yes";
    node.on("plotly_click", (event) => {
      const chosen = event.points.find((point) => isNumber(point.customdata));
      if (chosen) figures.get(id)?.open?.(chosen.customdata);
    });
    // plotly also tells of an (empty) selection when it draws anew: that is nobody's choice
    const choose = (points) => !figures.get(id)?.drawing && figures.get(id)?.choose?.(points);
    node.on("plotly_selected", (event) => event && choose(event.points.map((point) => point.customdata)));
    node.on("plotly_deselect", () => choose(null));
  }
}

// What all plots share: no ground of their own, the page's type and lines.
function frame() {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink("ink") },
    margin: { l: 52, r: 12, t: 12, b: 40 },
    hoverlabel: { bgcolor: ink("panel"), bordercolor: ink("line"), font: { color: ink("ink"), size: 12 }, align: "left" },
    hovermode: "closest",
    showlegend: false,
    autosize: true,
  };
}

function axis(more = {}) {
  return {
    gridcolor: ink("faint"),
    linecolor: ink("line"),
    zerolinecolor: ink("line"),
    tickcolor: ink("line"),
    showline: true,
    ticks: "outside",
    ticklen: 4,
    automargin: true,
    title: { standoff: 6 },
    ...more,
  };
}

// What an axis of blocks names: whole numbers, some `most` of them.
function wholeTicks(last, most) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((s) => last / s <= most) ?? 1000;
  return Array.from({ length: Math.floor(last / step) + 1 }, (_, n) => n * step);
}

const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function rgba(hex, opacity) {
  return `rgba(${channels(hex).join(",")},${opacity})`;
}

function startPlots() {
  onTheme((width) => {
    for (const id of figures.keys()) redraw(id, width);
  });
  // on paper: light, and as wide as the paper
  let before = null;
  window.addEventListener("beforeprint", () => {
    const folded = [...document.querySelectorAll("details.group:not(.severity-info), details.group:not(.severity-info) details.rest")].filter((d) => !d.open);
    before = { theme: document.documentElement.dataset.theme, folded };
    folded.forEach((details) => (details.open = true));
    document.documentElement.dataset.theme = "light";
    themeChanged(PAPER_WIDTH);
  });
  window.addEventListener("afterprint", () => {
    if (!before) return;
    before.folded.forEach((details) => (details.open = false));
    if (before.theme) document.documentElement.dataset.theme = before.theme;
    else delete document.documentElement.dataset.theme;
    before = null;
    themeChanged();
  });
}
