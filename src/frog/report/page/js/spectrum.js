// A spectrum on logarithmic axes: share of eigenvalues at least as large, fitted tail, xmin, bulk.

const STEPS = 65535;

function unpackCurve(curve) {
  const packed = atob(curve.data);
  const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
  const grid = new DataView(bytes.buffer);
  const read = (part) => Array.from({ length: curve.n }, (_, n) => {
    const step = grid.getUint16(2 * (part * curve.n + n), true) / STEPS;
    return 10 ** (curve.low[part] + step * (curve.high[part] - curve.low[part]));
  });
  return { eigenvalue: read(0), survival: read(1) };
}

// The fitted power law through the survival at xmin: S(x) = S(xmin) (x / xmin)^(1 - alpha).
function tailLine(curve, points) {
  if (!isNumber(curve.xmin) || !isNumber(curve.alpha) || curve.xmin <= 0) return null;
  const inTail = points.survival.filter((_, n) => points.eigenvalue[n] >= curve.xmin * (1 - 1e-3));
  if (!inTail.length) return null;
  const start = Math.max(...inTail);
  const end = Math.max(...points.eigenvalue);
  return { x: [curve.xmin, end], y: [start, start * (end / curve.xmin) ** (1 - curve.alpha)] };
}

function spectrumFigure(i) {
  return () => {
    const colours = LINES[theme()];
    const figure = { data: [], layout: { height: 360, shapes: [], annotations: [], showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 60, r: 14, t: 36, b: 48 } } };
    const marks = [];
    const farms = data.window === "farms";
    data.sides.forEach((side, n) => {
      const curve = side.curves[i];
      if (!curve) return;
      const points = unpackCurve(curve);
      const label = side.label ? `${side.label}: ` : "";
      const colour = colours[n];
      figure.data.push({ type: "scatter", mode: "markers", name: `${label}eigenvalues`, x: points.eigenvalue, y: points.survival, marker: { size: 4.5, color: colour, symbol: n ? "square-open" : "circle" }, hovertemplate: "λ %{x:.4g}<br>share ≥ λ %{y:.3g}<extra></extra>" });
      const tail = farms ? null : tailLine(curve, points);
      if (tail) figure.data.push({ type: "scatter", mode: "lines", name: `${label}fitted tail, α ${curve.alpha.toFixed(2)}`, ...tail, line: { color: data.sides.length > 1 ? colour : colours[1], width: 2, dash: n ? "dot" : "dash" }, hoverinfo: "skip" });
      const tone = data.sides.length > 1 ? colour : ink("dim");
      if (!farms) marks.push({ x: curve.xmin, words: `xmin ${side.label}`.trim(), colour: tone, dash: "dash" });
      marks.push({ x: curve.bulk_edge, words: `bulk edge ${side.label}`.trim(), colour: tone, dash: "dot" });
    });
    drawMarks(figure.layout, marks.filter((m) => isNumber(m.x) && m.x > 0));
    const range = shownRange(figure.data);
    const minor = { ticks: "outside", ticklen: 2, tickcolor: ink("line") };
    figure.layout.xaxis = axis({ type: "log", title: { text: "eigenvalue λ" }, exponentformat: "power", range, minor, dtick: range[1] - range[0] > 1.2 ? 1 : undefined });
    figure.layout.yaxis = axis({ type: "log", title: { text: "share of eigenvalues ≥ λ" }, exponentformat: "power", dtick: 1 });
    return figure;
  };
}

// The smallest eigenvalues may lie ten decades down, where nothing is to be seen: the plot begins
// at the size that 95 % reach; a double click shows all.
function shownRange(traces) {
  const dots = traces.filter((t) => t.mode === "markers");
  const pairs = dots.flatMap((t) => t.x.map((x, n) => [x, t.y[n]]));
  const top = Math.log10(Math.max(...pairs.map((p) => p[0])));
  const seen = pairs.filter((p) => p[1] <= 0.95).map((p) => p[0]);
  const low = Math.log10(Math.min(...(seen.length ? seen : pairs.map((p) => p[0]))));
  const pad = 0.06 * (top - low || 1);
  return [low - pad, top + 2 * pad];
}

// Upright lines with their names: the outer ones outward, so that no two names meet.
function drawMarks(layout, marks) {
  marks.sort((a, b) => a.x - b.x);
  marks.forEach((mark, n) => {
    const right = n >= marks.length / 2;
    const depth = right ? marks.length - 1 - n : n;
    layout.shapes.push({ type: "line", xref: "x", yref: "paper", x0: mark.x, x1: mark.x, y0: 0, y1: 1, line: { color: mark.colour, width: 1, dash: mark.dash } });
    layout.annotations.push({ x: Math.log10(mark.x), xref: "x", y: 1 - 0.08 * depth, yref: "paper", text: mark.words, showarrow: false, xanchor: right ? "left" : "right", yanchor: "top", xshift: right ? 3 : -3, font: { size: 11, color: ink("ink") }, bgcolor: ink("panel"), opacity: 0.9 });
  });
}
