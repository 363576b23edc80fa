// The graph of writers and readers: nodes by block and role, edges by weight, heaviest paths.

const EDGE_BINS = 5;
const BENDS = 14; // straight pieces of a curve
const DRAWN_EDGES = 1500;
const LONG_PATH = 16; // layers; a longer path is folded
const READINGS = ["folded", "trimmed", "plain"];

// The z of an edge: of the reading with the fewest ways to mislead that was made.
function edgeZ(n) {
  for (const reading of READINGS) {
    const z = data.edges.z[reading]?.[n];
    if (isNumber(z)) return z;
  }
  return null;
}

// Steps within a block: a layer comes after what writes to it there.
function stages() {
  const { writer, reader, kind } = data.edges;
  const stage = new Array(count).fill(0);
  for (let round = 0; round < 12; round++) {
    let moved = false;
    for (let n = 0; n < writer.length; n++) {
      const [a, b] = [writer[n], reader[n]];
      if (kind[n] === "qk" || layers.block[a] !== layers.block[b] || stage[b] > stage[a] || stage[a] > 10) continue;
      stage[b] = stage[a] + 1;
      moved = true;
    }
    if (!moved) break;
  }
  return stage;
}

function nodePlaces() {
  const stage = stages();
  const nodes = [...new Set([...data.edges.writer, ...data.edges.reader])];
  const most = Math.max(1, ...nodes.map((i) => stage[i]));
  const rows = data.lines.filter((line) => nodes.some((i) => layers.line[i] === line));
  const last = Math.max(0, ...layers.block.filter((b) => b !== null));
  const inBlocks = nodes.some((i) => layers.block[i] !== null);
  // outside the blocks: what writes stands before them, what only reads behind
  const writers = new Set(data.edges.writer);
  const x = (i) => {
    if (!inBlocks) return i;
    if (layers.block[i] === null) return writers.has(i) ? -0.6 : last + 1.4;
    return layers.block[i] + (stage[i] / (most + 1)) * 0.9;
  };
  return { nodes, rows, last, inBlocks, x, y: (i) => rows.length - 1 - rows.indexOf(layers.line[i]) };
}

function flowFigure(least, kind) {
  return () => {
    const places = nodePlaces();
    const chosen = chosenEdges(least, kind).slice(0, DRAWN_EDGES);
    const traces = [...edgeTraces(chosen, places), ...pathTraces(places), nodeTrace(places)];
    const layout = {
      height: Math.max(260, places.rows.length * 46 + 80),
      xaxis: axis({ title: { text: layers.block.some((b) => b !== null) ? "block" : "layer, in order" }, zeroline: false, showgrid: false, tickvals: wholeTicks(places.inBlocks ? places.last : count - 1, 20) }),
      yaxis: axis({ tickvals: places.rows.map((_, n) => places.rows.length - 1 - n), ticktext: places.rows.map(plain), zeroline: false, range: [-0.6, places.rows.length - 0.4], fixedrange: true }),
      margin: { l: 60, r: 12, t: 8, b: 44 },
    };
    return { data: traces, layout };
  };
}

// Edges beyond the null, heaviest first (the block of data is in that order).
function chosenEdges(least, kind) {
  return [...data.edges.writer.keys()].filter((n) => {
    const z = edgeZ(n);
    return z !== null && z >= least && (!kind || data.edges.kind[n] === kind);
  });
}

function arc(a, b, places) {
  const [x0, y0, x1, y1] = [places.x(a), places.y(a), places.x(b), places.y(b)];
  const bend = y0 === y1 ? 0.32 : 0;
  const [x, y] = [[], []];
  for (let t = 0; t <= BENDS; t++) {
    const s = t / BENDS;
    const ease = s * s * (3 - 2 * s);
    x.push(x0 + (x1 - x0) * s);
    y.push(y0 + (y1 - y0) * ease + bend * 4 * s * (1 - s));
  }
  return { x: [...x, null], y: [...y, null] };
}

function edgeTraces(chosen, places) {
  const top = Math.max(...chosen.map((n) => data.edges.weight[n] ?? 0), 1e-12);
  const bins = Array.from({ length: EDGE_BINS }, () => ({ x: [], y: [] }));
  for (const n of chosen) {
    const share = Math.max(0, data.edges.weight[n] ?? 0) / top;
    const bin = bins[Math.min(EDGE_BINS - 1, Math.floor(share * EDGE_BINS))];
    const line = arc(data.edges.writer[n], data.edges.reader[n], places);
    bin.x.push(...line.x);
    bin.y.push(...line.y);
  }
  const tone = theme() === "dark" ? "190,200,210" : "70,80,90";
  return bins.map((bin, n) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", ...bin, line: { width: 0.7 + 1.1 * n, color: `rgba(${tone},${0.16 + 0.1 * n})` } }));
}

function pathTraces(places) {
  const drawn = (data.paths ?? []).slice(0, 5);
  return drawn.map((path, n) => {
    const line = { x: [], y: [] };
    for (let s = 1; s < path.layers.length; s++) {
      const piece = arc(path.layers[s - 1], path.layers[s], places);
      line.x.push(...piece.x);
      line.y.push(...piece.y);
    }
    return { type: "scatter", mode: "lines", ...line, text: `path ${n + 1}`, hovertemplate: `path ${n + 1}, weight ${brief(path.weight)}<extra></extra>`, line: { width: 3.4 - 0.4 * n, color: LINES[theme()][n ? 0 : 1], dash: DASHES[n % 4] }, opacity: n ? 0.75 : 1 };
  });
}

function nodeTrace(places) {
  const nodes = places.nodes;
  return {
    type: "scatter", mode: "markers", x: nodes.map(places.x), y: nodes.map(places.y), customdata: nodes,
    text: nodes.map((i) => plain(layers.name[i])), hovertemplate: "%{text}<extra></extra>",
    marker: { size: 9, color: ink("panel"), line: { width: 1.6, color: ink("ink") } },
  };
}

function startFlow(open) {
  if (!data.edges?.writer.length) return;
  const [z, kind] = [byId("flow-z"), byId("flow-kind")];
  const kinds = [...new Set(data.edges.kind)];
  kind.append(el("option", { value: "" }, "all"), ...kinds.map((k) => el("option", { value: k }, k)));
  const show = () => {
    const least = isNumber(z.valueAsNumber) ? z.valueAsNumber : 0;
    const found = chosenEdges(least, kind.value).length;
    const drawn = Math.min(found, DRAWN_EDGES);
    byId("flow-count").textContent = `${found} of ${plural(data.edges.total, "edge")}${drawn < found ? `, the heaviest ${drawn} drawn` : ""}`;
    draw("flow-plot", flowFigure(least, kind.value), open);
  };
  z.addEventListener("change", show);
  kind.addEventListener("change", show);
  byId("flow-paths").replaceChildren(...data.paths.slice(0, 12).map(pathItem));
  show();
}

function pathItem(path) {
  const parts = path.layers.flatMap((i, n) => {
    const head = isNumber(path.heads[n]) ? ` head ${path.heads[n]}` : "";
    return [n ? el("span", { class: "arrow" }, " → ") : null, layerLink(i, placeName(i)), head];
  });
  const facts = el("span", { class: "dim" }, ` · weight ${brief(path.weight)}, weakest ${brief(path.weakest)}`);
  if (path.layers.length <= LONG_PATH) return el("li", {}, ...parts, facts);
  const [first, last] = [path.layers[0], path.layers[path.layers.length - 1]].map(placeName);
  return el("li", {}, el("details", {}, el("summary", {}, `${first} → … → ${last}, ${path.layers.length} layers`, facts), ...parts));
}

const placeName = (i) => (layers.block[i] === null ? layers.short[i] : `${layers.block[i]}.${layers.role[i]}`);

// The edges of one layer, for its drawer.
function edgesOf(i) {
  if (!data.edges) return null;
  const rows = [];
  for (let n = 0; n < data.edges.writer.length; n++) {
    const [a, b] = [data.edges.writer[n], data.edges.reader[n]];
    if (a !== i && b !== i) continue;
    rows.push({ n, other: a === i ? b : a, way: a === i ? "to" : "from" });
  }
  if (!rows.length) return null;
  const made = READINGS.filter((r) => data.edges.z[r]);
  const overlap = (n) => made.map((r) => data.edges.overlap[r][n]).find(isNumber);
  const head = ["", "layer", "kind", "head", "overlap", "z", "weight"];
  return el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h, c) => el("th", { scope: "col", class: c < 3 ? "left" : null }, h)))), el("tbody", {}, ...rows.slice(0, 24).map(({ n, other, way }) => el("tr", {}, el("td", { class: "left" }, way), el("td", { class: "left" }, layerLink(other, `${layers.block[other] ?? ""} ${layers.short[other]}`.trim())), el("td", { class: "left" }, data.edges.kind[n]), el("td", {}, data.edges.head[n] === null ? "" : String(data.edges.head[n])), el("td", {}, brief(overlap(n))), el("td", {}, brief(edgeZ(n))), el("td", {}, brief(data.edges.weight[n]))))));
}
