// The table of layers: sorted by any column, filtered by text, expression, role and condition.

const FIRST_ROWS = 80; // more than a window holds
const ROWS = 1000; // rows that are built at once; a button builds the rest

const cellClass = (column) => [column.left ? "left" : "", column.class ?? ""].join(" ").trim() || null;

class LayerTable {
  // columns: {key, title, help, left, number(i), text(i), node(i), csv(i), shown}: what it is sorted
  // by, how it is read, what stands in the cell and in the file, where those differ
  constructor(id, columns) {
    this.id = id;
    this.columns = columns;
    this.order = [...Array(count).keys()];
    this.sort = null;
    this.rows = new Map();
    this.limit = ROWS;
    this.filter = { text: "", regex: false, role: "", condition: "" };
    this.chosen = null; // layers that a plot has chosen; null: all
    this.buildControls();
    this.build();
  }

  get visible() {
    return this.columns.filter((column) => column.shown);
  }

  buildControls() {
    const set = (name) => (event) => {
      this.filter[name] = event.target.type === "checkbox" ? event.target.checked : event.target.value;
      this.apply();
    };
    this.search = el("input", { type: "search", id: `${this.id}-search`, placeholder: "name", "aria-label": "Filter by name", on: { input: set("text") } });
    const regex = el("label", { class: "field" }, el("input", { type: "checkbox", id: `${this.id}-regex`, on: { change: set("regex") } }), "regex");
    const choice = (name, values) => el("label", { class: "field" }, el("span", {}, name), el("select", { id: `${this.id}-${name}`, on: { change: set(name) } }, el("option", { value: "" }, "all"), ...values.map((v) => el("option", {}, v))));
    const controls = [el("label", { class: "field" }, el("span", {}, "filter"), this.search), regex, choice("role", [...new Set(layers.role)])];
    if (layers.condition) controls.push(choice("condition", [...new Set(layers.condition)].sort()));
    this.tally = el("output", { class: "dim", id: `${this.id}-count` });
    const chooser = el("details", { class: "chooser" }, el("summary", {}, "columns"), el("div", {}, ...this.columns.map((column) => el("label", {}, el("input", { type: "checkbox", checked: column.shown, "data-column": column.key, on: { change: (event) => this.toggle(column, event.target.checked) } }), el("span", { title: column.help }, column.title)))));
    chooser.addEventListener("keydown", (event) => {
      if (event.key === "Escape") [chooser.open] = [false, chooser.querySelector("summary").focus()];
    });
    document.addEventListener("click", (event) => {
      if (!chooser.contains(event.target)) chooser.open = false;
    });
    const csv = el("button", { type: "button", class: "quiet", id: `${this.id}-csv`, title: "These rows and columns as a CSV file", on: { click: () => this.save() } }, "CSV");
    this.all = el("button", { type: "button", class: "quiet", id: `${this.id}-all`, hidden: true, on: { click: () => this.choose(null) } }, "Also those outside the frame");
    byId(`${this.id}-controls`).replaceChildren(...controls, chooser, csv, this.tally, this.all);
  }

  toggle(column, on) {
    column.shown = on;
    this.build();
  }

  build() {
    this.rows.clear();
    this.head = el("tr", {}, ...this.visible.map((column) => el("th", { scope: "col", class: cellClass(column), "aria-sort": this.sort?.column === column ? this.sort.way : "none" }, el("button", { type: "button", title: column.help, "data-column": column.key, class: this.sort?.column === column ? "sorted" : null, on: { click: () => this.sortBy(column) } }, column.title))));
    this.body = el("tbody", {});
    const host = byId(`${this.id}-table`);
    host.replaceChildren(el("table", { class: this.visible.length > 12 ? "dense" : null }, el("thead", {}, this.head), this.body));
    this.apply();
  }

  row(i) {
    if (!this.rows.has(i)) {
      const cells = this.visible.map((column) => el("td", { class: cellClass(column) }, column.node ? column.node(i) : column.text ? column.text(i) : shown(column.key, column.number(i))));
      this.rows.set(i, el("tr", { "data-at": i }, ...cells));
    }
    return this.rows.get(i);
  }

  sortBy(column) {
    const descending = this.sort?.column === column && this.sort.way === "ascending";
    this.sort = { column, way: descending ? "descending" : "ascending" };
    [...this.head.cells].forEach((cell, n) => {
      const chosen = this.visible[n] === column;
      cell.setAttribute("aria-sort", chosen ? this.sort.way : "none");
      cell.firstChild.classList.toggle("sorted", chosen);
    });
    this.apply();
    announce(`sorted by ${column.title}, ${this.sort.way}`);
  }

  sorted() {
    if (!this.sort) return this.order;
    const { column, way } = this.sort;
    const sign = way === "descending" ? -1 : 1;
    const keys = this.order.map((i) => (column.number ? column.number(i) : column.text(i)));
    const missing = (x) => x === null || x === undefined || Number.isNaN(x);
    const texts = new Intl.Collator("en", { numeric: true });
    // what has no number comes last, whichever way one sorts
    return [...this.order].sort((a, b) => {
      const [x, y] = [keys[a], keys[b]];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (typeof x === "number" ? x - y : texts.compare(x, y)) || a - b;
    });
  }

  choose(layersChosen) {
    this.chosen = layersChosen && new Set(layersChosen);
    this.apply();
    announce(this.tally.textContent);
  }

  matcher() {
    const { text, regex } = this.filter;
    if (!text) return () => true;
    if (!regex) {
      const words = text.toLowerCase();
      return (i) => layers.name[i].toLowerCase().includes(words);
    }
    const pattern = new RegExp(text, "i");
    return (i) => pattern.test(layers.name[i]);
  }

  apply() {
    let match;
    try {
      match = this.matcher();
      this.search.removeAttribute("aria-invalid");
    } catch (error) {
      this.search.setAttribute("aria-invalid", "true");
      this.tally.replaceChildren(el("span", { class: "problem" }, `no regular expression: ${error.message}`));
      return;
    }
    const { role, condition } = this.filter;
    this.kept = this.sorted().filter((i) => (!role || layers.role[i] === role) && (!condition || layers.condition[i] === condition) && (!this.chosen || this.chosen.has(i)) && match(i));
    this.fill();
    this.tally.textContent = this.kept.length === count ? plural(count, "layer") : `${this.kept.length} of ${plural(count, "layer")}`;
    this.all.hidden = this.chosen === null;
  }

  // The rows in view at once, the others when the browser has drawn those: sorting feels immediate.
  fill() {
    const host = byId(`${this.id}-table`);
    const chosen = this.kept.slice(0, this.limit);
    const rest = this.kept.length - chosen.length;
    this.body.replaceChildren(...chosen.slice(0, FIRST_ROWS).map((i) => this.row(i)));
    delete host.dataset.whole;
    const round = (this.round = Symbol("a later filling outdates this one"));
    const finish = () => {
      if (this.round !== round) return;
      this.body.append(...chosen.slice(FIRST_ROWS).map((i) => this.row(i)), ...(rest ? [this.moreRow(rest)] : []));
      host.dataset.whole = "yes";
    };
    if (chosen.length <= FIRST_ROWS) finish();
    else setTimeout(finish, 30);
  }

  moreRow(rest) {
    const show = () => {
      this.limit = Infinity;
      this.apply();
    };
    return el("tr", {}, el("td", { class: "left more-rows", colspan: this.visible.length }, el("button", { type: "button", on: { click: show } }, `Show ${rest} more`)));
  }

  save() {
    const quoted = (x) => {
      let text = x === null || x === undefined ? "" : String(x);
      // a name must not become a formula of a spreadsheet
      if (typeof x === "string" && /^[=+\-@\t]/.test(text)) text = `'${text}`;
      return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    };
    const columns = this.visible.filter((column) => column.key !== "name");
    const cell = (column, i) => (column.csv ?? column.number ?? column.text)(i);
    const lines = [["tensor", ...columns.map((column) => column.key)]];
    for (const i of this.kept) lines.push([layers.name[i], ...columns.map((column) => cell(column, i))]);
    const text = lines.map((line) => line.map(quoted).join(",")).join("\n");
    const url = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
    el("a", { href: url, download: "layers.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

// Columns that every page has, and one for each metric.
function placeColumns() {
  return [
    { key: "block", title: "block", help: "number of the block", number: (i) => layers.block[i], text: (i) => (layers.block[i] === null ? "" : String(layers.block[i])), shown: true },
    { key: "name", title: "layer", help: "name, from its block on", left: true, class: "name", text: (i) => layers.name[i], node: (i) => layerLink(i), shown: true },
    { key: "role", title: "role", help: "role in its block", left: true, class: "minor", text: (i) => layers.role[i], shown: true },
    { key: "shape", title: "shape", help: "rows × columns; sorts by parameters", class: "minor", number: (i) => layers.params[i], csv: (i) => layers.shape[i], node: (i) => layers.shape[i], shown: true },
  ];
}

function metricColumn(metric, on) {
  return { key: metric.key, title: metric.title, help: metric.help, number: (i) => valueOf(metric.key, i), shown: on };
}

function conditionWord(i) {
  const word = layers.condition[i];
  // a comparison's words have a mark, as on its map; a report's have a colour
  const mark = data.page === "comparison" ? FLAGS.find(([flagged]) => flagged === word)?.[1] : null;
  const swatch = data.page === "comparison" ? mark && `${mark} ` : el("span", { class: `swatch condition-${word.replace(/ /g, "-")}` });
  return el("span", { class: "word" }, swatch, word);
}
