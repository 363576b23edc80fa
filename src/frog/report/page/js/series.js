// The page of a series: a metric over steps, one member on the map, a layer over all members.

let member = 0;

function startSeries() {
  member = Math.max(0, data.members.length - 1);
  // the value of a layer is that of the chosen member
  valueOf = (key, i) => {
    const value = data.values[key]?.[member]?.[i];
    return isNumber(value) ? value : null;
  };
  layers.condition = data.conditions[member]?.map((word) => word ?? "absent");
  drawerParts = seriesDrawer;
  drawDrawerPlots = (i) => draw("drawer-spectrum", overSteps(drawerMetric(), i));
}

const overMembers = (key, i) => data.members.map((_, m) => data.values[key]?.[m]?.[i] ?? null);

function stepsFigure(key) {
  return (width) => {
    const steps = data.members.map((m) => m.step);
    const traces = [];
    const all = [...Array(count).keys()].filter((i) => layers.averaged[i]);
    for (const line of data.lines) {
      const members = all.filter((i) => layers.line[i] === line);
      const y = data.members.map((_, m) => median(members.map((i) => data.values[key]?.[m]?.[i])));
      if (!y.some(isNumber)) continue;
      const style = lineStyle(line);
      traces.push({ type: "scatter", mode: "lines+markers", name: plain(line), x: steps, y, line: { color: style.colour, width: 1.6, dash: style.dash }, marker: { color: style.colour, symbol: style.symbol, size: 6 }, hovertemplate: `${plain(line)}, step %{x}<br>%{y:.4g}<extra></extra>` });
    }
    const y = data.members.map((_, m) => median(all.map((i) => data.values[key]?.[m]?.[i])));
    traces.push({ type: "scatter", mode: "lines+markers", name: "all in the means", x: steps, y, line: { color: ink("ink"), width: 3 }, marker: { color: ink("ink"), size: 7 }, hovertemplate: "all, step %{x}<br>%{y:.4g}<extra></extra>" });
    return { data: traces, layout: stepsLayout(key, traces, width) };
  };
}

function stepsLayout(key, traces, width) {
  const metric = metricOf.get(key);
  const legend = traces.length > 1;
  // from the numbers: the shaded range must not flatten the lines
  const step = metric.scale === "log" ? Math.log10 : (x) => x;
  const numbers = traces.flatMap((trace) => trace.y).filter(isNumber).map(step);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const pad = (high - low || Math.abs(high) || 1) * 0.08;
  const room = Math.max(8, Math.floor(width / (9 * data.members.length)));
  const labels = data.members.map((m) => cut(m.short, room));
  const few = data.members.length <= 12;
  const usual = metric.usual ? [{ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: metric.usual[0], y1: metric.usual[1], fillcolor: ink("usual"), line: { width: 0 }, layer: "below" }] : [];
  const numbered = data.members.every((m, n) => m.step === n);
  return {
    height: legend ? 400 : 320,
    shapes: usual,
    showlegend: legend,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: axis({ title: { text: numbered ? "member" : "step" }, zeroline: false, showgrid: false, ...(few ? { tickvals: data.members.map((m) => m.step), ticktext: numbered ? labels.map(plain) : data.members.map((m) => String(m.step)) } : {}) }),
    yaxis: axis({ title: { text: plain(metric.title) }, type: metric.scale === "log" ? "log" : "linear", zeroline: false, range: numbers.length ? [low - pad, high + pad] : undefined }),
    // room for half of the last name
    margin: { l: 56, r: numbered && few ? Math.max(14, Math.ceil(3.6 * labels[labels.length - 1].length)) : 14, t: legend ? 40 : 12, b: 48 },
  };
}

// One layer over the members.
function overSteps(key, i) {
  return (width) => {
    const style = lineStyle(layers.line[i]);
    const trace = { type: "scatter", mode: "lines+markers", x: data.members.map((m) => m.step), y: overMembers(key, i), line: { color: style.colour, width: 2 }, marker: { size: 7, color: style.colour }, text: data.members.map((m) => plain(m.label)), hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>" };
    return { data: [trace], layout: stepsLayout(key, [trace], width) };
  };
}

const drawerMetric = () => byId("drawer-metric")?.value || byId("map-metric").value;

function seriesDrawer(i) {
  const select = el("select", { id: "drawer-metric" });
  metricOptions(select, data.metrics, byId("map-metric").value);
  select.addEventListener("change", () => draw("drawer-spectrum", overSteps(select.value, i)));
  const rows = data.members.map((m, n) => el("tr", {}, el("th", { scope: "row" }, m.label), ...data.metrics.slice(0, 6).map((metric) => el("td", {}, brief(data.values[metric.key][n][i]))), el("td", {}, data.conditions[n][i] ?? "absent")));
  return [
    chips(i),
    el("div", { class: "controls" }, el("label", { class: "field" }, el("span", {}, "metric"), select)),
    el("div", { class: "plot", id: "drawer-spectrum", role: "img", "aria-label": "The metric of this layer over the steps; the numbers are in the table below" }, el("p", { class: "dim waiting" }, "Drawing …")),
    el("h3", {}, "Over the members"),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "left" }, "member"), ...data.metrics.slice(0, 6).map((metric) => el("th", { scope: "col" }, metric.title)), el("th", { scope: "col" }, "condition"))), el("tbody", {}, ...rows)),
    ...originParts(i),
  ];
}

function memberColumns(key) {
  return [
    ...placeColumns(),
    ...data.members.map((m, n) => ({ key: `member:${n}`, title: cut(m.short, 20), help: m.label, number: (i) => data.values[key]?.[n]?.[i] ?? null, text: undefined, node: (i) => fixed(key, data.values[key]?.[n]?.[i]), shown: true })),
    { key: "total", title: "last − first", help: "change from the first to the last member", number: (i) => totalChange(key, i), node: (i) => signed(key, totalChange(key, i)), shown: true },
  ];
}

function totalChange(key, i) {
  const numbers = overMembers(key, i);
  const [first, last] = [numbers[0], numbers[numbers.length - 1]];
  return isNumber(first) && isNumber(last) ? last - first : null;
}

function seriesPage() {
  startSeries();
  const [steps, metric, choice] = [byId("steps-metric"), byId("map-metric"), byId("map-member")];
  const first = preferred(["alpha", "stable_rank"]);
  metricOptions(steps, data.metrics, first);
  metricOptions(metric, data.metrics, first);
  choice.append(...data.members.map((m, n) => el("option", { value: n, selected: n === member }, m.label)));
  const choose = (n) => {
    member = n;
    choice.value = String(n);
    layers.condition = data.conditions[n].map((word) => word ?? "absent");
    decimals.clear();
    document.querySelectorAll(".members tr[data-member]").forEach((row) => row.classList.toggle("chosen", Number(row.dataset.member) === n));
    drawMap(metric.value, openLayer);
    table(); // its filter by condition is that of the member
  };
  choice.addEventListener("change", () => choose(Number(choice.value)));
  document.querySelectorAll("button[data-member]").forEach((button) => button.addEventListener("click", () => {
    choose(Number(button.dataset.member));
    byId("map").scrollIntoView();
  }));
  const table = () => new LayerTable("layers", memberColumns(metric.value));
  metric.addEventListener("change", () => {
    decimals.clear();
    drawMap(metric.value, openLayer);
    table();
  });
  steps.addEventListener("change", () => draw("steps-plot", stepsFigure(steps.value)));
  if (!data.members.length || !data.metrics.length) return;
  choose(member);
  draw("steps-plot", stepsFigure(steps.value));
  onTheme((width) => drawMap(metric.value, openLayer, width));
  onResize(() => drawMap(metric.value, openLayer));
}
