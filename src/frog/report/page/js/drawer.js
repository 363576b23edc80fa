// The drawer of a layer: opened by #layer=N, built when it opens. A native dialog keeps the focus
// inside, closes on Escape and gives the focus back.

let opener = null;

function openLayer(i) {
  if (location.hash === `#layer=${i}`) showLayer(i);
  else location.hash = `layer=${i}`;
}

function layerOfHash() {
  const found = /^#layer=(\d+)$/.exec(location.hash);
  const i = found ? Number(found[1]) : -1;
  return i >= 0 && i < count ? i : null;
}

function showLayer(i) {
  const dialog = byId("drawer");
  forget("drawer-spectrum");
  const title = el("h2", { id: "drawer-title", tabindex: "-1" }, el("code", {}, layers.name[i]));
  const go = (step) => () => openLayer((i + step + count) % count);
  const buttons = el(
    "div",
    { class: "buttons" },
    el("button", { type: "button", title: "Previous layer", "aria-label": "Previous layer", on: { click: go(-1) } }, "←"),
    el("button", { type: "button", title: "Next layer", "aria-label": "Next layer", on: { click: go(1) } }, "→"),
    el("button", { type: "button", id: "drawer-close", on: { click: () => dialog.close() } }, "Close"),
  );
  dialog.replaceChildren(el("div", { class: "drawer-head" }, title, buttons), el("div", { class: "drawer-body" }, ...drawerParts(i)));
  if (!dialog.open) {
    opener = document.activeElement;
    dialog.showModal();
  }
  dialog.scrollTop = 0;
  byId("drawer-close").focus();
  drawDrawerPlots(i);
}

let drawerParts = (i) => [chips(i), ...findingParts(i), el("h3", {}, "Spectrum"), spectrumPart(i), ...valueParts(i), ...flowParts(i), ...originParts(i)];

let drawDrawerPlots = (i) => {
  if (data.sides.some((side) => side.curves[i])) draw("drawer-spectrum", spectrumFigure(i));
};

function chips(i) {
  const words = [layers.role[i], placeOf(i), layers.shape[i], `${quantity(layers.params[i])} parameters`, layers.dtype?.[i], layers.averaged?.[i] === false ? "outside the means" : ""];
  const state = layers.condition ? [el("li", {}, conditionWord(i))] : [];
  return el("ul", { class: "chips" }, ...state, ...words.filter(Boolean).map((word) => el("li", {}, word)));
}

function findingParts(i) {
  const found = data.findings.filter((finding) => finding.at === i);
  const verdicts = layers.verdicts?.[i] ?? [];
  const parts = found.map((finding) => {
    const meaning = data.meanings[finding.kind];
    const facts = [finding.certainty, isNumber(finding.value) ? `value ${brief(finding.value)}` : null, isNumber(finding.threshold) ? `threshold ${brief(finding.threshold)}` : null];
    return el(
      "div",
      { class: `why severity-${finding.severity}` },
      el("p", {}, el("b", {}, finding.kind), " ", el("span", { class: "dim" }, facts.filter(Boolean).join(" · "))),
      el("p", {}, finding.text),
      meaning?.why ? el("p", {}, meaning.why) : null,
      meaning?.do ? el("p", {}, el("b", {}, "What to do: "), meaning.do) : null,
    );
  });
  if (!found.length) parts.push(el("p", { class: "dim" }, verdicts.length ? `verdict: ${verdicts.join(", ")}` : noVerdict(i)));
  const rank = (data.ranking ?? []).find((r) => r.at === i);
  if (rank) parts.push(el("p", {}, el("b", {}, "Worth tuning: "), rank.reason));
  return [el("h3", {}, "Verdict"), ...parts];
}

function noVerdict(i) {
  const status = layers.status?.[i];
  return status && status !== "ok" ? `No verdict: ${status.replace(/_/g, " ")}.` : "No finding for this layer.";
}

function spectrumPart(i) {
  if (!data.sides.some((side) => side.curves[i])) return el("p", { class: "dim" }, "The report holds no curve of this layer.");
  const note = data.window === "farms" ? el("p", { class: "dim" }, "Alpha was fitted on windows of one aspect ratio; this is the spectrum of the whole matrix, without the line of the fit.") : null;
  const hint = el("p", { class: "dim screen-only" }, "The smallest 5 % of the eigenvalues may lie to the left of the plot; a double click shows them.");
  return el("div", {}, el("div", { class: "plot", id: "drawer-spectrum", role: "img", "aria-label": "Spectrum on logarithmic axes; the numbers are in the table below" }, el("p", { class: "dim waiting" }, "Drawing …")), hint, note);
}

// Values, those with a look at the null with its range.
let valueParts = (i) => {
  const looks = Object.entries(data.looks).filter(([, look]) => isNumber(look.value[i]));
  const lookRows = looks.map(([name, look]) => {
    const outside = look.value[i] < look.low[i] || look.value[i] > look.high[i];
    return el("tr", {}, el("th", { scope: "row" }, metricOf.get(name)?.title ?? name.replace(/_/g, " ")), el("td", { class: outside ? "outside-null" : null }, brief(look.value[i])), el("td", {}, look.low[i] === look.high[i] ? brief(look.low[i]) : `${brief(look.low[i])} to ${brief(look.high[i])}`), el("td", {}, isNumber(look.percentile[i]) ? look.percentile[i].toFixed(1) : NONE), el("td", {}, outside ? "outside" : "inside"));
  });
  const rows = data.metrics.filter((metric) => valueOf(metric.key, i) !== null).map((metric) => el("tr", {}, el("th", { scope: "row" }, metric.title), el("td", { class: "left" }, metric.help), el("td", {}, brief(valueOf(metric.key, i)))));
  return [
    lookRows.length ? el("h3", {}, "Against random matrices of its shape") : null,
    lookRows.length ? el("table", {}, el("thead", {}, el("tr", {}, ...["", "value", "random", "percentile", ""].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, ...lookRows)) : null,
    el("h3", {}, "Values"),
    el("table", {}, el("tbody", {}, ...rows)),
  ];
};

function flowParts(i) {
  const table = edgesOf(i);
  return table ? [el("h3", {}, "Pathways: what it reads from and writes to"), table] : [];
}

function originParts(i) {
  const rows = [["tensor", layers.name[i]], ["also named", (layers.aliases?.[i] ?? []).join(", ")], ["rule", layers.rule?.[i]], ["fit", layers.status?.[i]], ["verdicts", (layers.verdicts?.[i] ?? []).join(", ")], ["notes", (layers.notes?.[i] ?? []).join("; ")]].filter((row) => row[1]);
  return [el("h3", {}, "Where it comes from"), el("table", {}, el("tbody", {}, ...rows.map(([name, words]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "left" }, words)))))];
}

function startDrawer() {
  const dialog = byId("drawer");
  dialog.addEventListener("close", () => {
    forget("drawer-spectrum");
    dialog.replaceChildren();
    if (layerOfHash() !== null) history.replaceState(null, "", location.pathname + location.search);
    if (opener?.isConnected) opener.focus();
    opener = null;
  });
  for (const id of ["drawer", "listing"]) {
    byId(id).addEventListener("click", (event) => {
      if (event.target === event.currentTarget) event.currentTarget.close();
    });
  }
  const follow = () => {
    const i = layerOfHash();
    if (i !== null) showLayer(i);
    else if (dialog.open) dialog.close();
  };
  window.addEventListener("hashchange", follow);
  // a second click on the link of a layer that was just closed changes no hash
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.layer-link");
    if (link && link.hash === location.hash) follow();
  });
  follow();
}
