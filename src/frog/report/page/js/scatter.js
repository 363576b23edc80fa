// Alpha against scale: a point a layer, its colour and symbol the role, as in the plots over depth.
// A frame drawn around points filters the table of layers.

const SCATTER_AXES = ["log_spectral_norm", "alpha"];

const scatterLayers = () => [...Array(count).keys()].filter((i) => SCATTER_AXES.every((key) => valueOf(key, i) !== null));

function scatterWords(i) {
  const [scale, alpha] = SCATTER_AXES.map((key) => metricOf.get(key));
  const { band } = alpha;
  const interval = band && valueOf(band[0], i) !== null ? ` (${brief(valueOf(band[0], i))} to ${brief(valueOf(band[1], i))})` : "";
  return `${plain(layers.name[i])}<br>${plain(layers.line[i])}, ${plain(layers.condition[i])}<br>${alpha.title} ${brief(valueOf(alpha.key, i))}${interval}<br>${scale.title} ${brief(valueOf(scale.key, i))}`;
}

function scatterFigure(width) {
  const [scale, alpha] = SCATTER_AXES.map((key) => metricOf.get(key));
  const all = scatterLayers();
  const traces = data.lines.map((line) => [line, all.filter((i) => layers.line[i] === line)]).filter(([, members]) => members.length).map(([line, members]) => {
    const style = lineStyle(line);
    const [x, y] = SCATTER_AXES.map((key) => members.map((i) => valueOf(key, i)));
    return {
      type: "scatter", mode: "markers", name: plain(line), x, y, customdata: members, text: members.map(scatterWords), hovertemplate: "%{text}<extra></extra>",
      marker: { color: style.colour, symbol: style.symbol, size: all.length > 300 ? 6 : 9, opacity: 0.85, line: { width: 0.5, color: ink("panel") } },
    };
  });
  const usual = alpha.usual ? [{ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: alpha.usual[0], y1: alpha.usual[1], fillcolor: ink("usual"), line: { width: 0 }, layer: "below" }] : [];
  return {
    data: traces,
    layout: {
      height: 400, shapes: usual, dragmode: "select", showlegend: true,
      legend: { orientation: width < 600 ? "h" : "v", ...(width < 600 ? { y: 1.02, yanchor: "bottom", x: 0 } : {}) },
      xaxis: axis({ title: { text: plain(`${scale.title}: ${scale.help}`) }, zeroline: false }),
      yaxis: axis({ title: { text: alpha.title }, type: alpha.scale === "log" ? "log" : "linear", zeroline: false, range: depthRange("alpha", [{ middle: all.map((i) => valueOf("alpha", i)) }]) }),
      newselection: { line: { color: ink("ink"), width: 1 } },
      activeselection: { fillcolor: ink("dim"), opacity: 0.1 },
    },
  };
}

function startScatter(open, choose) {
  const drawn = SCATTER_AXES.every((key) => metricOf.has(key)) ? scatterLayers().length : 0;
  if (!drawn) {
    byId("scatter-plot").replaceWith(el("p", { class: "dim" }, "No layer has an alpha: too few eigenvalues for a fit, or it was not asked for."));
    return;
  }
  const words = [drawn < count ? `${drawn} of ${plural(count, "layer")}, those with an alpha` : plural(count, "layer")];
  if (metricOf.get("alpha").usual) words.push("shaded: the usual range of alpha, 2 to 6");
  byId("scatter-caption").textContent = `${words.join("; ")}. Click a point for its layer; drag a frame around points to see only them in the table, double click to see all again.`;
  draw("scatter-plot", scatterFigure, open, choose);
}
