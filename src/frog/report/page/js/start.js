// Which parts a page has, by its kind.

const REPORT_COLUMNS = ["alpha", "D", "stable_rank", "log_spectral_norm", "log_norm", "alpha_weighted"];
const CHANGE_COLUMNS = ["before:alpha", "after:alpha", "change:alpha", "drift", "rotation_left", "rotation_right", "intruders", "scale_z", "change:stable_rank"];

function startMap(first) {
  const select = byId("map-metric");
  metricOptions(select, data.metrics, first);
  const show = (width) => {
    if (select.value) drawMap(select.value, openLayer, width);
    else byId("map-body").replaceChildren(el("p", { class: "dim" }, "No layer was measured."));
  };
  select.addEventListener("change", () => show());
  onTheme(show);
  onResize(show);
  show();
}

// Call again when the window has another width.
function onResize(act) {
  let waiting = 0;
  let known = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === known) return;
    known = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => act(), 150);
  });
}

// Two ends with a dash between them, in words where a minus sign would meet it.
function between(low, high) {
  return `${low.toFixed(1)}${low < 0 || high < 0 ? " to " : "–"}${high.toFixed(1)}`.replace(/-/g, "−");
}

function intervalColumn(title, low, high, help) {
  const text = (i) => (valueOf(low, i) === null ? "" : between(valueOf(low, i), valueOf(high, i)));
  return { key: "interval", title, help, number: (i) => (valueOf(low, i) === null ? null : valueOf(high, i) - valueOf(low, i)), node: text, text, csv: text, shown: true };
}

function reportPage() {
  const first = preferred(["alpha", "stable_rank"]);
  startMap(first);
  startDepth(first, openLayer);
  startFlow(openLayer);
  const columns = [...placeColumns()];
  columns.push({ key: "params", title: "parameters", help: "number of parameters", number: (i) => layers.params[i], node: (i) => quantity(layers.params[i]), shown: false });
  for (const metric of data.metrics) {
    columns.push(metricColumn(metric, REPORT_COLUMNS.includes(metric.key)));
    if (metric.key === "alpha" && metricOf.has("alpha_low")) columns.push(intervalColumn("α interval", "alpha_low", "alpha_high", "95 % interval of alpha; sorts by its width"));
  }
  columns.push({ key: "condition", title: "condition", help: "the class of the layer", left: true, text: (i) => layers.condition[i], node: conditionWord, shown: true });
  columns.push({ key: "verdicts", title: "verdicts", help: "every verdict", left: true, text: (i) => layers.verdicts[i].join(", "), shown: false });
  columns.push({ key: "status", title: "fit", help: "whether the tail could be fitted", left: true, text: (i) => layers.status[i].replace(/_/g, " "), shown: false });
  columns.push({ key: "dtype", title: "dtype", help: "type of the stored numbers", left: true, text: (i) => layers.dtype[i], shown: false });
  const table = new LayerTable("layers", columns);
  startScatter(openLayer, (chosen) => table.choose(chosen));
}

function comparisonPage() {
  valueParts = comparedValues;
  const first = preferred(["change:alpha", "drift", "change:stable_rank"]);
  startMap(first);
  startLargest(first, openLayer);
  startDepth(first, openLayer);
  const columns = [...placeColumns()];
  const later = [];
  const metrics = [...data.metrics].sort((a, b) => rank(a.key) - rank(b.key));
  for (const metric of metrics) {
    (CHANGE_COLUMNS.indexOf(metric.key) in [0, 1, 2] || metric.key === "drift" ? columns : later).push(metricColumn(metric, CHANGE_COLUMNS.includes(metric.key)));
    // few layers have an interval where only those near a threshold are resampled
    if (metric.key === "change:alpha" && 4 * valuesOf("change:alpha_low").filter(isNumber).length >= layers.name.length) columns.push(intervalColumn("Δα interval", "change:alpha_low", "change:alpha_high", "joint 95 % interval of the change of alpha; sorts by its width"));
  }
  const verdict = (i) => {
    const [before, after] = [layers.verdicts_before[i].join(", "), layers.verdicts[i].join(", ")];
    return before === after ? after : `${before || "none"} → ${after || "none"}`;
  };
  columns.push({ key: "scale", title: "scale", help: "collapse, or compensated by the next normalisation", left: true, text: (i) => layers.scale[i], shown: layers.scale.some(Boolean) });
  columns.push({ key: "verdicts", title: "verdict", help: "verdicts before and after", left: true, text: verdict, shown: true });
  new LayerTable("layers", [...columns, ...later]);
}

const rank = (key) => (CHANGE_COLUMNS.includes(key) ? CHANGE_COLUMNS.indexOf(key) : CHANGE_COLUMNS.length);

startTheme();
startPlots();
({ report: reportPage, comparison: comparisonPage, series: seriesPage })[data.page]();
startFindings();
startDrawer();
document.documentElement.dataset.ready = "yes";
