// The page of a comparison: the layers that changed most, and both sides of a layer.

const LARGEST = 20;

// What is before and after a change; null for numbers that have no two sides.
function sidesOf(key) {
  const name = key.startsWith("change:") ? key.slice("change:".length) : null;
  return name && metricOf.has(`before:${name}`) ? [`before:${name}`, `after:${name}`] : null;
}

function largestFigure(key) {
  return (width) => {
    const order = [...Array(count).keys()].filter((i) => valueOf(key, i) !== null).sort((a, b) => Math.abs(valueOf(key, b)) - Math.abs(valueOf(key, a)) || a - b).slice(0, LARGEST).reverse();
    const sides = sidesOf(key);
    const room = Math.max(12, Math.floor(width / 22));
    const names = order.map((i) => plain(cut(`${layers.block[i] ?? ""} ${layers.short[i]}`.trim(), room)));
    const rows = order.map((_, n) => n);
    const colours = LINES[theme()];
    const words = order.map((i) => `${plain(layers.name[i])}<br>${plain(metricOf.get(key).title)} ${shown(key, valueOf(key, i))}`);
    const traces = sides
      ? [
          { type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, x: order.flatMap((i) => [valueOf(sides[0], i), valueOf(sides[1], i), null]), y: rows.flatMap((n) => [n, n, null]), line: { color: ink("dim"), width: 1.6 } },
          dots("before", order.map((i) => valueOf(sides[0], i)), rows, words, order, { color: ink("panel"), size: 9, line: { width: 2, color: colours[0] } }),
          dots("after", order.map((i) => valueOf(sides[1], i)), rows, words, order, { color: colours[1], size: 9, symbol: "diamond" }),
        ]
      : [{ type: "bar", orientation: "h", x: order.map((i) => valueOf(key, i)), y: rows, text: words, customdata: order, textposition: "none", hovertemplate: "%{text}<extra></extra>", marker: { color: colours[0] }, width: 0.6 }];
    const title = sides ? metricOf.get(sides[0]).title.replace(/ before$/, "") : metricOf.get(key).title;
    const metric = metricOf.get(sides ? sides[0] : key);
    return {
      data: traces,
      layout: {
        height: order.length * 21 + 90,
        showlegend: Boolean(sides), legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0 },
        xaxis: axis({ title: { text: plain(title) }, type: sides && metric.scale === "log" ? "log" : "linear", zeroline: !sides }),
        yaxis: axis({ tickvals: rows, ticktext: names, zeroline: false, showline: false, ticks: "", range: [-0.8, order.length - 0.2], fixedrange: true }),
        margin: { l: 60, r: 14, t: 30, b: 44 },
      },
    };
  };
}

function dots(name, x, y, text, customdata, marker) {
  return { type: "scatter", mode: "markers", name, x, y, text, customdata, marker, hovertemplate: `%{text}<br>${name} %{x:.4g}<extra></extra>` };
}

function cut(text, width) {
  return text.length <= width ? text : `${text.slice(0, Math.ceil(width / 2) - 1)}…${text.slice(-Math.floor(width / 2))}`;
}

function startLargest(first, open) {
  const select = byId("largest-metric");
  const metrics = data.metrics.filter((metric) => metric.group === "change");
  metricOptions(select, metrics, first);
  const show = () => {
    if (select.value) draw("largest-plot", largestFigure(select.value), open);
    else byId("largest-plot").replaceChildren(el("p", { class: "dim waiting" }, "No number on both sides."));
  };
  select.addEventListener("change", show);
  show();
}

// Both sides of every value, and what the change says.
function comparedValues(i) {
  const missing = Object.entries(layers.missing[i]).map(([what, why]) => el("p", { class: "dim" }, `${what.replace(/_/g, " ")}: ${why}`));
  const weighed = data.metrics.filter((m) => m.group === "change" && !m.key.startsWith("change:") && valueOf(m.key, i) !== null);
  const facts = weighed.map((m) => el("tr", {}, el("th", { scope: "row" }, m.title), el("td", { class: "left" }, m.help), el("td", {}, brief(valueOf(m.key, i)))));
  const low = valueOf("change:alpha_low", i);
  if (low !== null) facts.push(el("tr", {}, el("th", { scope: "row" }, "Δ α, interval"), el("td", { class: "left" }, "joint 95 % interval of the change of alpha"), el("td", {}, `${brief(low)} to ${brief(valueOf("change:alpha_high", i))}`)));
  const rows = data.metrics.filter((m) => m.key.startsWith("change:") && valueOf(m.key, i) !== null).map((m) => {
    const sides = sidesOf(m.key);
    return el("tr", {}, el("th", { scope: "row", title: m.help }, m.title.replace("Δ ", "")), ...(sides ?? [null, null]).map((side) => el("td", {}, side ? brief(valueOf(side, i)) : NONE)), el("td", {}, brief(valueOf(m.key, i))));
  });
  const verdicts = [layers.verdicts_before[i], layers.verdicts[i]].map((words) => words.join(", ") || "none");
  return [
    el("h3", {}, "What changed"),
    el("p", {}, verdicts[0] === verdicts[1] ? `Verdict as before: ${verdicts[1]}.` : `Verdict before: ${verdicts[0]}. After: ${verdicts[1]}.`, layers.identical[i] ? " The bytes are the same." : "", layers.scale[i] ? ` Scale: ${layers.scale[i]}.` : ""),
    facts.length ? el("table", {}, el("tbody", {}, ...facts)) : null,
    ...missing,
    el("h3", {}, "Values"),
    el("table", {}, el("thead", {}, el("tr", {}, ...["", "before", "after", "change"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, ...rows)),
  ];
}
