// The map: roles down, blocks across, a cell for every block and role. It is a table of buttons:
// arrow keys move, one cell is in the order of the Tab key.

function drawMap(key, open, width) {
  const host = byId("map-body");
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.at : null;
  const cells = cellsOf();
  const numbers = valuesOf(key);
  const colours = colouring(key, numbers);
  const blocks = [...new Set(layers.block.filter((b) => b !== null))].sort((a, b) => a - b);
  // cells have their number in them where there is room for it
  const least = metricOf.get(key).scale === "diverging" ? 3.3 : 2.7;
  const label = Math.max(5, 0.5 * Math.max(...data.lines.map((line) => line.length)));
  const narrow = (blocks.length * least + label) * 16 > (width ?? host.clientWidth);
  const parts = [];
  if (blocks.length) {
    const step = narrow && blocks.length > 16 ? 5 : 1;
    const head = el("tr", {}, el("th", { scope: "row", class: "dim" }, "block"), ...blocks.map((b, n) => el("th", { scope: "col" }, narrow && n % step ? "" : String(b))));
    const rows = data.lines
      .filter((line) => blocks.some((b) => cells.has(`${line}\n${b}`)))
      .map((line) => el("tr", {}, el("th", { scope: "row" }, line), ...blocks.map((b) => {
        const members = cells.get(`${line}\n${b}`);
        return el("td", {}, members ? cellButton(key, members, colours, `${line}, block ${b}`, open, narrow) : null);
      })));
    const wide = narrow ? Math.max(1.6, 40 / blocks.length) : 7;
    const table = el("table", { class: narrow ? "map narrow" : "map", style: `--cell-width: ${narrow ? 0.8 : least}rem; width: min(100%, ${(blocks.length * wide + label).toFixed(1)}rem)` }, el("caption", { class: "hidden-text" }, "Blocks by roles"), el("thead", {}, head), el("tbody", {}, ...rows));
    table.addEventListener("keydown", moveInMap);
    parts.push(el("div", { class: "map-scroll", style: "overflow-x: auto; padding: 2px" }, table));
  }
  const outside = [...Array(count).keys()].filter((i) => layers.block[i] === null);
  if (outside.length) parts.push(outsideBlocks(key, outside, colours, open, blocks.length));
  parts.push(mapKey(key, colours));
  host.replaceChildren(...parts);
  const buttons = [...host.querySelectorAll(".map .cell")];
  buttons.forEach((button, n) => (button.tabIndex = n ? -1 : 0));
  if (focused !== null) host.querySelector(`[data-at="${focused}"]`)?.focus();
}

// Layers by line and block.
function cellsOf() {
  const cells = new Map();
  for (let i = 0; i < count; i++) {
    if (layers.block[i] === null) continue;
    const place = `${layers.line[i]}\n${layers.block[i]}`;
    if (!cells.has(place)) cells.set(place, []);
    cells.get(place).push(i);
  }
  return cells;
}

function cellButton(key, members, colours, where, open, narrow) {
  const value = median(members.map((i) => valueOf(key, i)));
  const flag = flagOf(members);
  const words = [where, `${metricOf.get(key).title} ${value === null ? "none" : shown(key, value)}`];
  if (members.length > 1) words.push(`median of ${members.length} layers`);
  if (flag) words.push(flag.words);
  const look = value === null ? null : colours.of(value);
  return el(
    "button",
    {
      type: "button",
      class: look ? "cell" : "cell no-value",
      style: look ? `background: ${look.ground}; color: ${look.ink}` : null,
      title: words.join(" · "),
      "aria-label": words.join(", "),
      "data-at": members[0],
      on: { click: () => (members.length === 1 ? open(members[0]) : listLayers(where, key, members)) },
    },
    narrow ? null : value === null ? NONE : shown(key, value),
    flag ? el("span", { class: "flag", "aria-hidden": "true" }, flag.mark) : null,
    members.length > 1 && !narrow ? el("span", { class: "many", "aria-hidden": "true" }, `×${members.length}`) : null,
  );
}

const FLAGS = [
  ["over-parameterised", "▲"], ["over-trained", "▼"], ["possibly over-parameterised", "△"], ["possibly over-trained", "▽"],
  ["scale collapse", "◆"], ["scale compensated", "◇"], ["verdict changed", "●"],
];

// The gravest condition of the layers of a cell, as a mark and in words.
function flagOf(members) {
  for (const [word, mark] of FLAGS) {
    if (members.some((i) => layers.condition?.[i] === word)) return { mark, words: word };
  }
  return null;
}

function outsideBlocks(key, outside, colours, open, anyBlocks) {
  const shownOnes = outside.slice(0, 60);
  const items = shownOnes.map((i) => el("span", { class: "item" }, cellButton(key, [i], colours, layers.name[i], open, false), el("span", {}, layers.short[i])));
  const more = outside.length - shownOnes.length;
  return el("div", { class: "outside" }, anyBlocks ? el("span", { class: "dim" }, "outside the blocks:") : null, ...items, more ? el("span", { class: "dim" }, `and ${more} more in the table`) : null);
}

function mapKey(key, colours) {
  const metric = metricOf.get(key);
  const ends = colours.clipped ? [`≤ ${shown(key, colours.low)}`, `≥ ${shown(key, colours.high)}`] : [shown(key, colours.low), shown(key, colours.high)];
  const used = FLAGS.filter(([word]) => layers.condition?.includes(word));
  return el("div", { class: "key" }, el("span", {}, metric.help), el("span", { class: "ramp" }, ends[0], el("i", { style: `background: ${colours.ramp}` }), ends[1], metric.scale === "log" ? " (log)" : null), ...used.map(([word, mark]) => el("span", {}, `${mark} ${word}`)));
}

function moveInMap(event) {
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -1e6], End: [0, 1e6] }[event.key];
  const here = event.target.closest("td");
  if (!step || !here) return;
  event.preventDefault();
  const rows = [...here.closest("tbody").rows];
  let [row, column] = [rows.indexOf(here.parentNode), here.cellIndex];
  const last = here.parentNode.cells.length - 1;
  if (Math.abs(step[1]) > 1) column = step[1] < 0 ? 0 : last + 1;
  const way = Math.abs(step[1]) > 1 ? [0, -Math.sign(step[1])] : step;
  for (;;) {
    [row, column] = [row + way[0], column + way[1]];
    if (row < 0 || row >= rows.length || column < 1 || column > last) return;
    const button = rows[row].cells[column].querySelector("button");
    if (!button) continue;
    event.currentTarget.querySelectorAll(".cell").forEach((b) => (b.tabIndex = -1));
    button.tabIndex = 0;
    button.focus();
    return;
  }
}

// Several layers in one cell: a list to choose from.
function listLayers(where, key, members) {
  const dialog = byId("listing");
  const close = el("button", { type: "button", on: { click: () => dialog.close() } }, "Close");
  const sorted = [...members].sort((a, b) => (valueOf(key, a) ?? Infinity) - (valueOf(key, b) ?? Infinity));
  const rows = sorted.map((i) => {
    const link = layerLink(i);
    link.addEventListener("click", () => dialog.close());
    return el("li", {}, link, el("span", {}, shown(key, valueOf(key, i))));
  });
  dialog.replaceChildren(el("div", { class: "drawer-head" }, el("h2", { id: "listing-title" }, `${where}: ${plural(members.length, "layer")} by ${metricOf.get(key).title}`), close), el("ul", {}, ...rows));
  dialog.showModal();
}
