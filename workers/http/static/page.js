// What htmx does not do: Enter in a text field, the dialog of a memory's life, and the plots. Texts are only ever set as text.
"use strict";

const TALK = 200;  // messages of a chat that stay on the page
const find = (id) => document.getElementById(id);

document.addEventListener("keydown", (event) => {
  const field = event.target;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && field.matches?.("textarea[data-submits]")) {
    event.preventDefault();
    field.form.requestSubmit();
  }
});

document.addEventListener("htmx:afterSwap", (event) => {
  const target = event.detail.target ?? event.target;
  if (target.id === "life" && !target.open) target.showModal();
  if (target.id === "talk") {
    target.querySelectorAll(":scope > .empty").forEach((old) => old.remove());
    while (target.children.length > TALK) target.firstElementChild.remove();
    target.lastElementChild.scrollIntoView({ block: "nearest" });
  }
  const kept = target.closest?.("[data-keeps]");
  if (kept) {
    kept.querySelectorAll(":scope > .empty, :scope > .problem:not(:first-child)").forEach((old) => old.remove());
    while (kept.children.length > Number(kept.dataset.keeps)) kept.lastElementChild.remove();
  }
});
document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.detail.elt;
  if (event.detail.successful && form.matches?.("form[data-clears]")) form.querySelector("textarea").value = "";
});
find("chat-namespace")?.addEventListener("input", (event) => {
  find("chat-export").href = `/chat/memories.jsonl?namespace=${encodeURIComponent(event.target.value.trim())}`;
});
document.addEventListener("click", (event) => {
  if (event.target.matches("dialog")) event.target.close();  // beside what it shows
});
for (const [name, hidden] of [["htmx:sendError", false], ["htmx:sseError", false], ["htmx:afterOnLoad", true]]) {
  document.addEventListener(name, () => { find("offline").hidden = hidden; });
}

// --- plots ---

const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const COLOURS = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];
const OUTCOMES = { learned: "c1", superseded: "c2", reinforced: "c3", skipped: "c8", outdated: "c5", duplicate: "c7", evicted: "c4", forgotten: "c6", erased: "c6" };
const SVG = "http://www.w3.org/2000/svg";

function element(name, text, attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  return node;
}

async function read(place, state) {
  try {
    const response = await fetch(place.dataset.source);
    const body = await response.json();
    if (!response.ok) throw new Error(body.error);
    return body;
  } catch (error) {
    state.textContent = error instanceof TypeError ? "The page's server does not answer. Is factstream ui still running?" : error.message;
    state.className = "problem";
    return null;
  }
}

function clock(seconds, width) {
  const text = new Date(seconds * 1000).toISOString();
  return width >= 86400 ? text.slice(0, 10) : width >= 3600 ? text.slice(5, 16).replace("T", " ") : text.slice(11, width < 60 ? 19 : 16);
}

function theme() {
  Chart.defaults.color = colour("muted");
  Chart.defaults.borderColor = colour("line");
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;
  Chart.defaults.plugins.legend.display = false;
  Object.assign(Chart.defaults.plugins.tooltip, { backgroundColor: colour("ink"), titleColor: colour("paper"), bodyColor: colour("paper"), padding: 10, cornerRadius: 8 });
}

// A button for each series: what it is, in its colour, and a press hides it.
function keys(chart, list) {
  list.replaceChildren(...chart.data.datasets.map((set, at) => {
    const button = element("button", "", { type: "button", "aria-pressed": "true" });
    const icon = document.createElementNS(SVG, "svg");
    const dot = document.createElementNS(SVG, "circle");
    Object.entries({ cx: 5, cy: 5, r: 5, fill: set.colour }).forEach(([key, value]) => dot.setAttribute(key, value));
    icon.setAttribute("viewBox", "0 0 10 10");
    icon.append(dot);
    button.append(icon, set.label);
    button.addEventListener("click", () => {
      const shown = !chart.isDatasetVisible(at);
      chart.setDatasetVisibility(at, shown);
      chart.update();
      button.setAttribute("aria-pressed", String(shown));
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

function figures(place, labels, sets) {
  const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  ["", ...sets.map((set) => set.label)].forEach((label) => head.append(element("th", label, { scope: "col" })));
  labels.forEach((label, at) => {
    if (sets.every((set) => set.data[at] == null)) return;
    const row = body.insertRow();
    row.append(element("th", label, { scope: "row" }));
    sets.forEach((set) => row.append(element("td", set.data[at] == null ? "–" : Number(set.data[at].toFixed(2)))));
  });
  place.replaceChildren(table);
}

function plot(id, type, labels, sets, options = {}) {
  const canvas = find(id), figure = canvas.closest("figure");
  Chart.getChart(canvas)?.destroy();
  if (!labels.length || !sets.length) {
    figure.querySelector(".canvas").replaceChildren(element("p", "Nothing yet.", { class: "empty" }), canvas);
    canvas.hidden = true;
    return;
  }
  sets.forEach((set) => Object.assign(set, { backgroundColor: set.colour, borderColor: set.colour, borderWidth: type === "line" ? 2 : 0, pointRadius: labels.length > 30 ? 0 : 2, cubicInterpolationMode: "monotone", borderRadius: 2, spanGaps: true, ...set.style }));
  const stacked = type === "bar";
  const category = { stacked, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } };
  const value = { stacked, beginAtZero: true, border: { display: false }, ticks: { maxTicksLimit: 5, ...(["delta", "delay"].includes(id) ? {} : { precision: 0 }) } };
  const flat = options.indexAxis === "y";
  const chart = new Chart(canvas, { type, data: { labels, datasets: sets }, options: {
    interaction: { mode: "index", intersect: false, axis: flat ? "y" : "x" }, ...options, scales: flat ? { x: value, y: category } : { x: category, y: value },
  } });
  const list = figure.querySelector(".keys");
  if (sets.length > 1) keys(chart, list); else list.hidden = true;
  figures(figure.querySelector(".figures"), labels, sets);
}

function overTime(history) {
  const labels = history.buckets.map((at) => clock(at, history.width_s));
  const place = new Map(history.buckets.map((at, n) => [at, n]));
  const series = (rows, name, names) => names.map((label) => {
    const data = Array(labels.length).fill(null);
    rows.filter((row) => row[name] === label && place.has(row.bucket)).forEach((row) => { data[place.get(row.bucket)] = row.count; });
    return { label, data };
  }).filter((set) => set.data.some((value) => value != null));
  const learning = (label, name, shade) => {
    const data = Array(labels.length).fill(null);
    history.learning.forEach((row) => { if (place.has(row.bucket)) data[place.get(row.bucket)] = row[name]; });
    return { label, data, colour: colour(shade) };
  };
  const some = (sets) => sets.filter((set) => set.data.some((value) => value != null));
  const names = history.now.slice(0, 7).map((row) => row.category).sort();  // a category keeps its colour while others grow
  const shade = (name) => colour(names.includes(name) ? COLOURS[names.indexOf(name)] : "c8");
  plot("outcomes", "bar", labels, series(history.outcomes, "outcome", Object.keys(OUTCOMES)).map((set) => ({ ...set, colour: colour(OUTCOMES[set.label]) })));
  plot("delta", "line", labels, some([learning("learned", "learned", "c1"), learning("skipped", "skipped", "c8")]));
  plot("delay", "line", labels, some([learning("median", "median", "c1"), learning("95th percentile", "p95", "c2")]));
  plot("categories", "bar", labels, series(history.categories, "category", [...names, "others"]).map((set) => ({ ...set, colour: shade(set.label) })));
  plot("now", "bar", history.now.map((row) => row.category), [{ label: "memories", data: history.now.map((row) => row.count), colour: colour("c1"), style: { backgroundColor: history.now.map((row) => shade(row.category)) } }], { indexAxis: "y" });
  const topics = Object.keys(history.lag.at(-1)?.waiting ?? {});
  plot("lag", "line", history.lag.map((sample) => clock(sample.at, 1)), topics.map((label, n) => ({ label, data: history.lag.map((sample) => sample.waiting[label] ?? null), colour: colour(COLOURS[n]), style: { cubicInterpolationMode: "default" } })));
}

function atlas(map) {
  const canvas = find("points"), here = find("here"), figure = find("atlas");
  Chart.getChart(canvas)?.destroy();
  const groups = new Map();
  map.points.forEach((point) => groups.set(point.category ?? "none", [...(groups.get(point.category ?? "none") ?? []), point]));
  const sorted = [...groups].sort((a, b) => b[1].length - a[1].length);
  const shown = sorted.slice(0, 7).sort(([a], [b]) => (a < b ? -1 : 1));
  if (sorted.length > 7) shown.push(["others", sorted.slice(7).flatMap(([, points]) => points)]);
  const datasets = shown.map(([label, data], n) => ({ label, data, colour: colour(COLOURS[n]), backgroundColor: colour(COLOURS[n]) + "b3", borderWidth: 0, pointRadius: 4, pointHoverRadius: 7, pointHitRadius: 6, hoverBackgroundColor: colour(COLOURS[n]), hoverBorderWidth: 2, hoverBorderColor: colour("ink") }));
  const axis = (name) => {
    const values = map.points.map((point) => point[name]), least = Math.min(...values), most = Math.max(...values);
    const room = 0.05 * (most - least) || 1;
    return { min: least - room, max: most + room, ...plain };
  };
  const plain = { ticks: { display: false }, grid: { color: colour("line"), drawTicks: false }, border: { display: false } };
  const describe = (point) => { here.textContent = `${point.text} (${point.category ?? "no category"})`; };
  const open = (point) => htmx.ajax("GET", `/memories/${encodeURIComponent(point.namespace)}/${point.memory_id}`, { target: "#life" });
  const chart = new Chart(canvas, { type: "scatter", data: { datasets }, options: {
    scales: { x: axis("x"), y: axis("y") }, interaction: { mode: "nearest", intersect: true }, plugins: { tooltip: { enabled: false } },
    onHover: (_, [first]) => { if (first) describe(datasets[first.datasetIndex].data[first.index]); canvas.style.cursor = first ? "pointer" : ""; },
    onClick: (_, [first]) => { if (first) open(datasets[first.datasetIndex].data[first.index]); },
  } });
  keys(chart, figure.querySelector(".keys"));
  const places = datasets.flatMap((set, datasetIndex) => set.data.map((point, index) => ({ point, datasetIndex, index }))).sort((a, b) => a.point.x - b.point.x);
  let at = -1;
  canvas.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const visible = places.filter((place) => chart.isDatasetVisible(place.datasetIndex));
      if (!visible.length) return;
      at = (at + step + visible.length) % visible.length;
      const place = visible[at];
      canvas.place = place;
      chart.setActiveElements([{ datasetIndex: place.datasetIndex, index: place.index }]);
      chart.update();
      describe(place.point);
    } else if (event.key === "Enter" && canvas.place) open(canvas.place.point);
  };
}

async function draw(place, state, show, empty) {
  if (!place) return;
  theme();
  const data = await read(place, state);
  if (!data) return;
  if (empty(data)) {
    state.textContent = "Nothing is remembered yet. Publish a fact first.";
    state.className = "empty";
    return;
  }
  state.hidden = true;
  place.hidden = false;
  show(data);
  dark.addEventListener("change", () => { theme(); show(data); });
}

draw(find("plots"), find("plots-state"), overTime, (data) => !data.buckets.length);
draw(find("atlas"), find("map-state"), atlas, (data) => !data.points.length);
