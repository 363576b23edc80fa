// A metric over depth: one line per role with its band, in panels of their own or together.

function depthFigure(key, layout) {
  return (width) => {
    const metric = metricOf.get(key);
    const lines = depthLines(key);
    const range = depthRange(key, lines);
    const apart = layout === "apart" && lines.length > 1;
    const rows = apart ? Math.ceil(lines.length / Math.max(1, Math.floor(width / 230))) : 1;
    const columns = apart ? Math.ceil(lines.length / rows) : 1;
    const figure = { data: [], layout: { shapes: [], annotations: [], height: apart ? rows * 165 + 50 : 380, margin: { l: 52, r: 12, t: apart ? 22 : 12, b: 44 } } };
    lines.forEach((line, n) => {
      const spot = apart ? panel(n, columns, rows) : { suffix: "", x: [0, 1], y: [0, 1] };
      if (apart || n === 0) addAxes(figure.layout, spot, metric, range, rows);
      figure.data.push(...bandTraces(line, spot.suffix, apart), ...lineTraces(line, spot.suffix, key));
      if (apart) figure.layout.annotations.push(panelTitle(line.name, spot));
    });
    if (!apart) Object.assign(figure.layout, { showlegend: true, legend: { orientation: "h", y: -0.14, x: 0 }, margin: { l: 52, r: 12, t: 12, b: 70 } });
    return figure;
  };
}

// The lines of a metric: at each block the median, its band, and the layers themselves.
function depthLines(key) {
  const metric = metricOf.get(key);
  const inBlocks = layers.block.some((b) => b !== null);
  const lines = [];
  for (const name of inBlocks ? data.lines : [""]) {
    const blocks = new Map();
    for (let i = 0; i < count; i++) {
      if (inBlocks && (layers.block[i] === null || layers.line[i] !== name)) continue;
      const x = inBlocks ? layers.block[i] : i;
      if (!blocks.has(x)) blocks.set(x, []);
      blocks.get(x).push(i);
    }
    const at = [...blocks.keys()].sort((a, b) => a - b);
    const middle = (column) => at.map((x) => median(blocks.get(x).map((i) => valueOf(column, i))));
    const line = { name: name || "layers in order", at, members: at.map((x) => blocks.get(x)), middle: middle(key) };
    if (!line.middle.some(isNumber)) continue;
    if (metric.band) [line.low, line.high] = metric.band.map(middle);
    lines.push(line);
  }
  return lines;
}

// From the points and most of the bands: one endless interval must not flatten all lines.
function depthRange(key, lines) {
  const metric = metricOf.get(key);
  const points = lines.flatMap((line) => line.middle).filter(isNumber);
  const lows = lines.flatMap((line) => line.low ?? []);
  const highs = lines.flatMap((line) => line.high ?? []);
  let low = Math.min(...points, quantile(lows, 0.05) ?? Infinity);
  let high = Math.max(...points, quantile(highs, 0.95) ?? -Infinity);
  if (metric.scale === "log") [low, high] = [Math.log10(low), Math.log10(high)];
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - pad, high + pad];
}

function panel(n, columns, rows) {
  const [column, row] = [n % columns, Math.floor(n / columns)];
  const [across, down] = [0.025, Math.min(0.3 / rows, 0.16)];
  const [wide, tall] = [(1 - across * (columns - 1)) / columns, (1 - down * (rows - 1)) / rows];
  const x = [column * (wide + across), column * (wide + across) + wide];
  const top = 1 - row * (tall + down);
  return { suffix: n ? String(n + 1) : "", x, y: [top - tall, top], first: column === 0, last: row === rows - 1, row };
}

function addAxes(layout, spot, metric, range, rows) {
  const [x, y] = [`xaxis${spot.suffix}`, `yaxis${spot.suffix}`];
  const inBlocks = layers.block.some((b) => b !== null);
  const title = inBlocks ? "block" : "layer, in order";
  layout[x] = axis({ domain: spot.x, anchor: `y${spot.suffix}`, showgrid: false, zeroline: false, title: rows === 1 || spot.last ? { text: title, standoff: 4 } : undefined, tickvals: wholeTicks(Math.max(...(inBlocks ? layers.block : [count - 1])), 8), minallowed: -0.5 });
  layout[y] = axis({ domain: spot.y, anchor: `x${spot.suffix}`, range, type: metric.scale === "log" ? "log" : "linear", zeroline: metric.scale === "diverging", nticks: 6, showticklabels: spot.first ?? true, title: spot.first === undefined ? { text: plain(metric.title) } : undefined });
  if (metric.usual) {
    layout.shapes.push({ type: "rect", xref: `x${spot.suffix} domain`, yref: `y${spot.suffix}`, x0: 0, x1: 1, y0: metric.usual[0], y1: metric.usual[1], fillcolor: ink("usual"), line: { width: 0 }, layer: "below" });
  }
}

function panelTitle(name, spot) {
  return { text: `<b>${plain(name)}</b>`, xref: "paper", yref: "paper", x: spot.x[0], y: spot.y[1], xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12 } };
}

// The band as closed shapes, one for each run of blocks that have both ends.
function bandTraces(line, suffix, apart) {
  if (!line.low) return [];
  const style = lineStyle(line.name);
  const runs = [];
  let run = null;
  line.at.forEach((x, n) => {
    if (!isNumber(line.low[n]) || !isNumber(line.high[n])) return (run = null);
    if (!run) runs.push((run = []));
    run.push([x, line.low[n], line.high[n]]);
  });
  return runs.map((points) => ({
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: line.name,
    xaxis: `x${suffix}`, yaxis: `y${suffix}`, fill: "toself", line: { width: points.length > 1 ? 0 : 5, color: rgba(style.colour, apart ? 0.25 : 0.12) }, fillcolor: rgba(style.colour, apart ? 0.2 : 0.09),
    x: [...points.map((p) => p[0]), ...points.map((p) => p[0]).reverse()],
    y: [...points.map((p) => p[1]), ...points.map((p) => p[2]).reverse()],
  }));
}

function lineTraces(line, suffix, key) {
  const style = lineStyle(line.name);
  const spot = { xaxis: `x${suffix}`, yaxis: `y${suffix}`, legendgroup: line.name };
  const words = line.at.map((x, n) => {
    const members = line.members[n];
    const band = line.low && isNumber(line.low[n]) ? ` (${shown(key, line.low[n])} to ${shown(key, line.high[n])})` : "";
    const name = members.length === 1 ? layers.short[members[0]] : `median of ${members.length} layers`;
    return `${plain(line.name)}, block ${x}<br>${plain(name)}<br>${plain(metricOf.get(key).title)} ${shown(key, line.middle[n])}${band}`;
  });
  const traces = [{
    ...spot, type: "scatter", mode: "lines+markers", name: plain(line.name), x: line.at, y: line.middle, text: words, hovertemplate: "%{text}<extra></extra>",
    customdata: line.members.map((m) => m[0]), connectgaps: false,
    line: { color: style.colour, width: 2, dash: style.dash }, marker: { color: style.colour, size: line.at.length > 40 ? 4 : 6, symbol: style.symbol },
  }];
  const several = line.members.flatMap((members, n) => (members.length > 1 && members.length <= 64 ? members.map((i) => [line.at[n], i]) : []));
  if (several.length) {
    traces.push({
      ...spot, type: "scatter", mode: "markers", showlegend: false, x: several.map((p) => p[0]), y: several.map((p) => valueOf(key, p[1])), customdata: several.map((p) => p[1]),
      text: several.map((p) => `${plain(layers.short[p[1]])}<br>${shown(key, valueOf(key, p[1]))}`), hovertemplate: "%{text}<extra></extra>", marker: { color: style.colour, size: 4, opacity: 0.45 },
    });
  }
  return traces;
}

function depthCaption(key) {
  const metric = metricOf.get(key);
  const lines = depthLines(key);
  const parts = [metric.help];
  if (lines.some((line) => line.low?.some(isNumber))) parts.push(metric.key === "alpha" && metric.band[0] === "alpha_low" ? "the band is the 95 % interval" : metric.band[0].includes("band") ? "the band holds the values of fits nearly as good" : "the band is the 95 % interval");
  if (lines.some((line) => line.members.some((m) => m.length > 1))) parts.push("where a block has several layers of a role, the line runs through their median");
  if (metric.usual) parts.push(`shaded: the usual range, ${metric.usual[0]} to ${metric.usual[1]}`);
  if (layers.block.some((b) => b === null) && layers.block.some((b) => b !== null)) parts.push("layers outside the blocks are in the table");
  return `${parts.join("; ")}.`;
}

// What the report says of each line: slope, roughness, share beyond the usual range.
function depthProfiles(key) {
  const rows = (data.profiles ?? []).filter((profile) => profile.metric === key).sort((a, b) => data.lines.indexOf(a.role) - data.lines.indexOf(b.role));
  if (!rows.length) return null;
  const head = ["role", "blocks", "slope per block", "95 % interval", "roughness", "outside the usual range"];
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trend over depth" }, el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h, n) => el("th", { scope: "col", class: n ? null : "left" }, h)))), el("tbody", {}, ...rows.map((p) => el("tr", {}, el("th", { scope: "row" }, p.role), el("td", {}, String(p.blocks.length)), el("td", {}, brief(p.slope)), el("td", {}, isNumber(p.slope_low) ? `${brief(p.slope_low)} to ${brief(p.slope_high)}` : NONE), el("td", {}, brief(p.roughness)), el("td", {}, isNumber(p.outside) ? `${(100 * p.outside).toFixed(0)} %` : NONE))))));
}

function startDepth(first, open) {
  const [select, layout] = [byId("depth-metric"), byId("depth-layout")];
  metricOptions(select, data.metrics, first);
  const show = () => {
    if (!select.value) return byId("depth-plot").replaceChildren(el("p", { class: "dim waiting" }, "No layer has a number to draw."));
    byId("depth-caption").textContent = depthCaption(select.value);
    const profiles = depthProfiles(select.value);
    byId("depth-profiles")?.replaceChildren(...(profiles ? [profiles] : []));
    draw("depth-plot", depthFigure(select.value, layout.value), open);
  };
  select.addEventListener("change", show);
  layout.addEventListener("change", show);
  show();
}
