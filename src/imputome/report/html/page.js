// Draws charts, and makes tables that readers search, sort and filter. The data are in the page as JSON.
const PAGE = 50;
const draw = window.imputomeDraw;
delete window.imputomeDraw;
const data = (id) => JSON.parse(document.getElementById(id).textContent);

// colours are variables of the style sheet, so that a change between light and dark needs no new drawing
const text = { labelColor: "var(--muted)", titleColor: "var(--ink)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
const CONFIG = {
  background: "transparent",
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
  view: { stroke: null },
  axis: { ...text, gridColor: "var(--grid)", domainColor: "var(--line)", tickColor: "var(--line)", titleLimit: 320 },
  axisX: { titleAnchor: "end", tickCount: 6, labelOverlap: true, labelSeparation: 8 },
  legend: { ...text, labelLimit: 160, titleLimit: 200 },
  style: { "guide-label": { fill: "var(--muted)" }, "guide-title": { fill: "var(--ink)" } },
};
const OPTIONS = {
  mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false,
  ast: true, // expressions are interpreted: the page's security policy allows no code made from text
  tooltip: { disableDefaultStyle: true },
};

async function plot(place, spec) {
  // names of rows get less than half of the width
  const labelLimit = Math.round(Math.max(120, Math.min(300, 0.42 * place.clientWidth)));
  const config = { ...CONFIG, axis: { ...CONFIG.axis, labelLimit } };
  const { view } = await draw(place, spec, { ...OPTIONS, config });
  const svg = place.querySelector("svg");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", spec.description);
  // the width may change without a change of the window: when a folded part opens, or when the page is printed
  let width = place.clientWidth;
  new ResizeObserver(() => {
    if (!place.clientWidth || Math.abs(place.clientWidth - width) < 2) return;
    width = place.clientWidth;
    view.signal("width", width).runAsync();
  }).observe(place);
  return view;
}

// the cell under the pointer in one map gets a ring in the others
function link(views) {
  const ring = (view, cell) => views.forEach((other) => {
    if (other !== view && other.signal("cell") !== cell) other.signal("cell", cell).runAsync();
  });
  views.forEach((view) => {
    view.addEventListener("mousemove", (event, item) => ring(view, item?.datum?.cell ?? -1));
    view.addEventListener("mouseout", () => ring(view, -1));
  });
}

// -- tables ----------------------------------------------------------------------------------------------------------
const PLAIN = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });
const PERCENT = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const NOTHING = "–";
const SHOW = {
  text: (value) => (value === null ? NOTHING : value),
  number: (value) => (value === null ? NOTHING : PLAIN.format(value)),
  percent: (value) => (value === null ? NOTHING : PERCENT.format(Math.round(value * 1000) / 1000 + 0)), // no -0.0%
  flag: (value) => (value === null ? NOTHING : value ? "yes" : "no"),
};

class LiveTable {
  constructor(root, { columns, values }) {
    Object.assign(this, { root, columns, values, keep: () => true, order: null, shown: PAGE });
    this.rows = [...(values[0] ?? []).keys()];
    this.body = root.querySelector("tbody");
    this.count = root.querySelector(".count");
    this.more = root.querySelector(".more");
    this.heads = [...root.querySelectorAll("thead th")];
    this.heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => this.sort(place)));
    this.more.addEventListener("click", () => this.grow());
    const search = root.querySelector("input[type=search]");
    if (search) {
      const names = values[0].map((name) => String(name).toLowerCase());
      search.addEventListener("input", () => {
        const query = search.value.trim().toLowerCase();
        this.filter((row) => names[row].includes(query));
      });
    }
    this.fill();
  }

  filter(keep) {
    this.keep = keep;
    this.shown = PAGE;
    this.fill();
  }

  sort(place) {
    const first = this.columns[place].kind === "text" ? 1 : -1; // the highest numbers come first
    const again = this.order && this.order.place === place;
    this.order = { place, way: again ? -this.order.way : first };
    this.heads.forEach((head, other) => {
      const way = other === place ? this.order.way : 0;
      if (way) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
      head.querySelector(".order").textContent = way > 0 ? "▲" : way < 0 ? "▼" : "";
    });
    this.fill();
  }

  grow() {
    const before = this.shown;
    this.shown += PAGE;
    this.fill();
    const next = this.body.rows[before];
    if (next) { next.cells[0].tabIndex = -1; next.cells[0].focus(); }
  }

  fill() {
    const kept = this.rows.filter(this.keep);
    if (this.order) {
      const { place, way } = this.order;
      const values = this.values[place];
      const { names } = this.columns[place];
      const cell = names ? (row) => names[values[row]] : (row) => values[row];
      kept.sort((a, b) => {
        const [x, y] = [cell(a), cell(b)];
        if (x === null || y === null) return (x === null) - (y === null); // values that were not measured come last in either order
        return way * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) || a - b;
      });
    }
    const part = kept.slice(0, this.shown);
    this.body.replaceChildren(...part.map((row) => this.line(row)));
    const all = this.rows.length.toLocaleString("en");
    const number = kept.length.toLocaleString("en");
    const first = part.length < kept.length ? `, showing the first ${part.length}` : "";
    this.count.textContent = `${number} of ${all} rows${first}`;
    this.more.hidden = part.length >= kept.length;
  }

  line(row) {
    const line = document.createElement("tr");
    this.columns.forEach(({ kind, names }, place) => {
      const cell = document.createElement(place ? "td" : "th");
      if (!place) cell.scope = "row";
      if (kind !== "text") cell.className = "number";
      const value = this.values[place][row];
      cell.textContent = SHOW[kind](names ? names[value] : value);
      line.append(cell);
    });
    return line;
  }
}

// -- a table of scores -----------------------------------------------------------------------------------------------
const PLOTS = 12; // at a time

// without methods whose mean is so far from the others that the chart cannot show how those differ
function near(rows) {
  const groups = new Map();
  rows.forEach((row) => groups.set(row.name, [...(groups.get(row.name) ?? []), row]));
  const means = new Map([...groups].map(([name, group]) => [name, group.reduce((sum, row) => sum + row.value, 0) / group.length]));
  const median = (values) => values.sort((a, b) => a - b)[Math.floor((values.length - 1) / 2)];
  const centre = median([...means.values()]);
  const distance = new Map([...means].map(([name, mean]) => [name, Math.abs(mean - centre)]));
  const limit = 3 * median([...distance.values()]);
  return rows.filter((row) => distance.get(row.name) <= limit || limit === 0);
}

function study(form) {
  const choices = data("choices");
  const spec = data("spec-trials");
  const [sets, settings, metrics, methods, numbers, values] = data("trials");
  const root = document.getElementById("live-scores");
  const summary = data("rows-scores");
  const [datasetOf, settingOf, metricOf, methodOf, ...rest] = summary.values;
  const names = choices.methods.map((method) => (method.control ? `${method.name} (control)` : method.name));
  const columns = summary.columns.map((column) => ({ ...column }));
  columns[0].names = names;
  columns.at(-2).names = choices.datasets;
  columns.at(-1).names = choices.settings;
  const table = new LiveTable(root, { columns, values: [methodOf, ...rest, datasetOf, settingOf] });
  const field = (name) => form.querySelector(`#filter-${name}`);
  const ticks = [...form.querySelectorAll("input[name=method]")];
  const place = document.getElementById("plots-place");
  let drawn = [];
  let latest = 0;

  async function show() {
    const call = ++latest;
    const metric = Number(field("metric").value);
    const dataset = field("dataset").value === "" ? null : Number(field("dataset").value);
    const setting = field("setting").value === "" ? null : Number(field("setting").value);
    const picked = new Set(ticks.filter((tick) => tick.checked).map((tick) => Number(tick.value)));
    const fits = (s, h, m, n) => m === metric && (dataset === null || s === dataset) && (setting === null || h === setting) && picked.has(n);
    document.getElementById("methods-count").textContent = `${picked.size} of ${ticks.length} shown`;
    table.filter((row) => fits(datasetOf[row], settingOf[row], metricOf[row], methodOf[row]));
    const groups = new Map();
    for (let row = 0; row < values.length; row++) {
      if (!fits(sets[row], settings[row], metrics[row], methods[row]) || values[row] === null) continue;
      const key = `${sets[row]} ${settings[row]}`;
      if (!groups.has(key)) groups.set(key, { dataset: sets[row], setting: settings[row], rows: [] });
      const method = choices.methods[methods[row]];
      groups.get(key).rows.push({ name: method.name, role: method.control ? "control" : "method", trial: numbers[row], value: values[row] });
    }
    if (form.querySelector("#filter-near").checked) groups.forEach((group) => { group.rows = near(group.rows); });
    const { name, better } = choices.metrics[metric];
    const shown = [...groups.values()].slice(0, PLOTS);
    document.getElementById("plots-status").textContent =
      groups.size === 0 ? "No score matches these filters." :
      `${name}${better ? `, ${better}` : ""}: ${shown.length < groups.size ? `showing the first ${shown.length} of ` : ""}${groups.size} ${groups.size === 1 ? "plot" : "plots"}`;
    drawn.forEach((view) => view.finalize());
    drawn = [];
    place.replaceChildren();
    for (const group of shown) {
      const figure = document.createElement("figure");
      const title = document.createElement("h3");
      title.textContent = `${choices.datasets[group.dataset]}, hidden by ${choices.settings[group.setting]}`;
      const where = document.createElement("div");
      where.className = "plot";
      figure.append(title, where);
      place.append(figure);
      const drawing = structuredClone(spec);
      drawing.datasets.rows = group.rows;
      drawing.height = drawing.height * new Set(group.rows.map((row) => row.name)).size + 10;
      drawing.description = `${name} of ${title.textContent}: a row per method, a point per trial.`;
      const label = better ? `${name} (${better})` : name;
      drawing.layer.forEach((layer) => { layer.encoding.x.title = label; });
      const view = await plot(where, drawing);
      if (call !== latest) { view.finalize(); figure.remove(); return; }
      drawn.push(view);
    }
  }

  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelectorAll("button[data-pick]").forEach((button) => button.addEventListener("click", () => {
    ticks.forEach((tick) => {
      const { pick } = button.dataset;
      tick.checked = pick === "all" || (pick === "controls" && choices.methods[Number(tick.value)].control);
    });
    show();
  }));
  return show();
}

// a table that is wider than its place says that it can be moved sideways
function mark(wide) {
  const watch = new ResizeObserver(() => wide.classList.toggle("wide", wide.scrollWidth > wide.clientWidth + 1));
  watch.observe(wide);
  watch.observe(wide.querySelector("table"));
}

async function begin() {
  document.querySelectorAll(".scroll").forEach(mark);
  document.querySelectorAll(".live").forEach((root) => {
    if (root.id !== "live-scores" || !document.getElementById("filters")) new LiveTable(root, data(root.dataset.rows));
  });
  const views = {};
  for (const place of document.querySelectorAll(".plot[data-spec]")) views[place.id] = await plot(place, data(place.dataset.spec));
  if (views["plot-map-before"] && views["plot-map-after"]) link([views["plot-map-before"], views["plot-map-after"]]);
  document.querySelectorAll(".panels").forEach((group) => link([...group.querySelectorAll(".plot")].map(({ id }) => views[id])));
  const form = document.getElementById("filters");
  if (form) await study(form);
  document.documentElement.dataset.drawn = "yes";
}
begin();
