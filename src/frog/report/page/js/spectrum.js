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
      if (!farms) mark(figure.layout, curve.xmin, `${side.label} xmin`.trim(), n, "dash", 1);
      mark(figure.layout, curve.bulk_edge, `${side.label} bulk edge`.trim(), n, "dot", 0.9);
    });
    figure.layout.xaxis = axis({ type: "log", title: { text: "eigenvalue λ" }, exponentformat: "power", dtick: decades(figure.data) });
    figure.layout.yaxis = axis({ type: "log", title: { text: "share of eigenvalues ≥ λ" }, exponentformat: "power", dtick: 1 });
    return figure;
  };
}

// The smallest eigenvalues may lie ten decades down, where nothing is to be seen: show from the
// size that all but 2 % reach.
function decades(traces) {
  const all = traces.filter((t) => t.mode === "markers").flatMap((t) => t.x);
  return all.length && Math.log10(Math.max(...all) / Math.min(...all)) < 6 ? 1 : undefined;
}

function mark(layout, x, words, side, dash, height) {
  if (!isNumber(x) || x <= 0) return;
  const colour = data.sides.length > 1 ? LINES[theme()][side] : ink("dim");
  layout.shapes.push({ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color: colour, width: 1, dash } });
  layout.annotations.push({ x: Math.log10(x), xref: "x", y: height - 0.2 * side, yref: "paper", text: words, showarrow: false, xanchor: "right", yanchor: "top", xshift: -3, font: { size: 11, color: colour } });
}
