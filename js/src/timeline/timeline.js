// The interactive timeline: in a notebook as a widget, in a page as an element whose data stands beside it.

import { decode } from "./data.js";
import { allTables, laneDetails, NEAR, tellPlace, Tip } from "./details.js";
import { AXIS, colourName, Picture, readTheme, ROW } from "./draw.js";
import { Overview } from "./overview.js";
import { buildTree, visibleRows } from "./rows.js";
import { duration, fullTime, TimeWindow } from "./window.js";
import { button, make, watchTheme } from "../dom.js";
import "./timeline.css";

const ZOOM = 1.4;
const MOST_ROWS = 20.5; // half a row tells that there are more
const STEP = 0.2; // part of the window that an arrow key moves
const HELP =
  "Arrow keys left and right move in time, plus and minus zoom, 0 shows everything, I goes to the next incident. " +
  "Up and down choose a row, Enter opens or closes it or lists its events, / goes to the filter.";

export class Timeline {
  constructor(el, data, { readLogs = null } = {}) {
    this.data = decode(data);
    this.readLogs = readLogs;
    this.view = new TimeWindow(this.data);
    this.roots = buildTree(this.data);
    this.hidden = new Uint8Array(this.data.kinds.length + 1);
    this.active = 0;
    this.incident = 0;
    this.build(el);
    this.picture = new Picture(this.canvas, this.data);
    this.refold();
    this.retheme();
    this.resizeObserver = new ResizeObserver(() => this.resize());
    this.resizeObserver.observe(this.scroller);
    this.endTheme = watchTheme(() => this.retheme());
    this.drawTimes = [];
  }

  build(el) {
    const { data, view } = this;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.labels = make("div", { className: "af-tl-labels", role: "tree", ariaLabel: "Incidents, jobs and instances" });
    this.inner = make("div", { className: "af-tl-inner" }, this.labels, make("div", { className: "af-tl-sticky" }, this.canvas));
    this.scroller = make("div", { className: "af-tl-rows" }, this.inner);
    this.tip = new Tip();
    this.stage = make("div", { className: "af-tl-stage" }, this.scroller, this.tip.element);
    this.overview = new Overview(data, view, () => this.schedule());
    this.filter = make("input", {
      type: "search", placeholder: "Filter: job, instance, incident", ariaLabel: "Filter the rows", oninput: () => this.refold(),
    });
    this.range = make("span", { className: "af-tl-range", role: "status" });
    this.details = make("div");
    this.tables = make("details", { className: "af-tl-tables", ontoggle: () => this.fillTables() },
      make("summary", {}, "Everything as tables"));
    const bar = make(
      "div", { className: "af-tl-bar" }, this.filter,
      button("Incident", "Go to the next incident (I)", () => this.nextIncident()),
      button("All", "Show the whole time (0)", () => this.change(() => view.show(...view.whole))),
      button("−", "Zoom out (-)", () => this.change(() => view.zoom(ZOOM))),
      button("+", "Zoom in (+)", () => this.change(() => view.zoom(1 / ZOOM))),
      this.range,
    );
    const notes = data.notes.map((note) => make("div", { className: "af-tl-note" }, note));
    this.root = make(
      "div", { className: "allocframe-timeline tex2jax_ignore mathjax_ignore" }, make("p", { className: "af-tl-summary" }, data.summary),
      bar, this.legend(), this.stage, this.overview.element, ...notes, this.details, this.tables,
    );
    this.root.dataset.lmSuppressShortcuts = "true"; // keeps JupyterLab's shortcuts away
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", `Timeline. ${data.summary} ${HELP}`);
    this.root.allocframeTimeline = this; // for tests
    el.append(this.root);
    this.listen();
  }

  /** Return the legend, whose entries switch kinds off and on. */
  legend() {
    const counts = new Uint32Array(this.data.kinds.length + 1);
    for (const kind of this.data.events.kind) counts[kind]++;
    const chips = this.data.kinds.map((kind, n) => {
      if (!counts[n + 1]) return null;
      const dot = make("span", { className: "af-tl-dot" });
      dot.style.background = `var(${colourName(kind)})`;
      const chip = button("", `Hide or show: ${kind}`, () => {
        this.hidden[n + 1] ^= 1;
        chip.setAttribute("aria-pressed", String(!this.hidden[n + 1]));
        this.schedule();
      });
      chip.append(dot, `${kind} ${counts[n + 1].toLocaleString("en")}`);
      chip.setAttribute("aria-pressed", "true");
      return chip;
    });
    const marks = [["change", "◆ deploy or new version"], ["operator", "▲ by an operator"], ["node", "■ node event"]];
    const keys = marks.map(([name, text]) => {
      const key = make("span", { className: "af-tl-key" }, text);
      key.style.color = `var(--af-${name})`;
      return key;
    });
    return make("div", { className: "af-tl-legend" }, ...chips, ...keys);
  }

  listen() {
    const { scroller, canvas, root } = this;
    scroller.addEventListener("scroll", () => this.schedule());
    scroller.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => this.pointers.clear());
    canvas.addEventListener("pointerleave", () => this.tip.show([]));
    canvas.addEventListener("dblclick", (event) => this.change(() => this.view.zoom(1 / ZOOM ** 2, this.numberAt(event))));
    root.addEventListener("keydown", (event) => this.key(event));
    this.pointers = new Map();
  }

  // Layout and drawing

  resize() {
    const width = this.scroller.clientWidth - this.labels.clientWidth;
    if (width <= 0) return;
    this.picture.resize(width, this.scroller.clientHeight);
    this.overview.resize(this.root.clientWidth - 2);
    this.draw();
  }

  retheme() {
    this.theme = readTheme(this.root, this.data.kinds);
    this.schedule();
  }

  /** Show the rows anew after something was folded or filtered. */
  refold() {
    const before = this.rows?.[this.active]?.id;
    this.rows = visibleRows(this.data, this.roots, this.filter.value);
    this.active = Math.max(this.rows.findIndex((row) => row.id === before), 0);
    this.inner.style.height = `${this.rows.length * ROW + AXIS}px`;
    this.scroller.style.height = `${Math.min(Math.max(this.rows.length, 4), MOST_ROWS) * ROW + AXIS + 1}px`;
    this.labelled = null;
    if (this.tables.open) this.fillTables();
    this.schedule();
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.picture.width) return;
    const started = performance.now();
    // Before it is on the page, and before its style sheet is there, an element has no colours.
    if (!this.theme.ground) this.theme = readTheme(this.root, this.data.kinds);
    if (!this.theme.ground) return void setTimeout(() => this.schedule(), 50);
    const { view, data, theme, active, hidden } = this;
    this.picture.draw(view, this.rows, this.scroller.scrollTop, { theme, active, hidden });
    this.overview.draw(theme);
    this.drawLabels();
    this.range.textContent =
      `${fullTime(data, view.begin)} to ${fullTime(data, view.end)} UTC (${duration(data, view.length)})`;
    this.drawTimes.push(performance.now() - started);
    if (this.drawTimes.length > 1000) this.drawTimes.splice(0, 500);
  }

  /** Make the labels of the rows in view; the others do not exist. */
  drawLabels() {
    const { scrollTop, clientHeight } = this.scroller;
    const from = Math.max(Math.floor((scrollTop - AXIS) / ROW), 0);
    const to = Math.min(Math.ceil((scrollTop + clientHeight) / ROW), this.rows.length);
    const key = `${from} ${to} ${this.active}`;
    if (this.labelled === key) return;
    this.labelled = key;
    const focused = this.labels.contains(document.activeElement);
    const made = [];
    for (let n = from; n < to; n++) made.push(this.label(this.rows[n], n));
    this.labels.replaceChildren(...made);
    if (focused) this.labels.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  label(row, n) {
    const folds = row.children.length > 0;
    const mark = folds ? (row.open ? "▾ " : "▸ ") : "";
    const count = row.type === "lane" || !row.lanes.length ? "" : ` (${row.lanes.length.toLocaleString("en")})`;
    // The end of a long name tells instances apart, so only its middle may be cut. Titles begin with the job.
    const isName = row.type === "lane" || row.type === "job";
    const tail = isName && row.label.length > 18 ? row.label.slice(-12) : "";
    const label = make(
      "div", { className: `af-tl-label af-tl-${row.type}`, role: "treeitem", tabIndex: n === this.active ? 0 : -1 },
      make("span", { className: "af-tl-front" }, mark + row.label.slice(0, row.label.length - tail.length)),
      make("span", { className: "af-tl-tail" }, tail + count),
    );
    label.setAttribute("aria-level", row.level);
    label.setAttribute("aria-selected", String(n === this.active));
    if (folds) label.setAttribute("aria-expanded", String(!!row.open));
    if (row.incident) label.classList.add(`af-tl-${row.incident.severity}`);
    label.title = row.incident?.summary ?? row.label;
    label.style.top = `${n * ROW + AXIS}px`;
    label.style.paddingInlineStart = `${row.level * 10 - 6}px`;
    label.addEventListener("focus", () => n !== this.active && this.activate(n));
    label.addEventListener("click", () => {
      this.activate(n);
      this.open(row);
    });
    return label;
  }

  fillTables() {
    if (!this.tables.open) return;
    this.tables.replaceChildren(this.tables.firstElementChild, ...allTables(this.data, this.rows).filter(Boolean));
  }

  // What users do

  change(how) {
    how();
    this.schedule();
  }

  nextIncident() {
    const known = this.data.incidents.filter((incident) => incident.began !== null);
    if (!known.length) return;
    const incident = known[this.incident++ % known.length];
    const end = incident.state === "ongoing" ? this.data.span : incident.last ?? incident.began;
    const length = Math.max(end - incident.began, 120_000 / this.data.unit);
    this.view.show(incident.began - 0.2 * length, incident.began + 1.06 * length);
    const row = this.roots.find((root) => root.incident === incident || root.incident?.all?.includes(incident));
    if (row) {
      row.open = true;
      this.refold();
      this.activate(this.rows.indexOf(row));
    }
    this.schedule();
  }

  /** Fold or unfold a row, or list the events of an instance. */
  open(row) {
    if (row.type === "lane") this.showDetails(row);
    else if (row.children.length) {
      row.open = !row.open;
      this.refold();
    }
  }

  showDetails(row) {
    const close = () => {
      this.details.replaceChildren();
      this.labels.querySelector('[tabindex="0"]')?.focus();
    };
    const logs = this.readLogs && ((event, output) => this.readLogs(this.data, event, row.lane, output));
    this.details.replaceChildren(laneDetails(this.data, row, this.view, { close, logs }));
  }

  activate(n) {
    this.active = Math.min(Math.max(n, 0), this.rows.length - 1);
    const top = this.active * ROW;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW + AXIS > scrollTop + clientHeight) this.scroller.scrollTop = top + ROW + AXIS - clientHeight;
    this.schedule();
  }

  key(event) {
    if (event.target === this.filter) {
      if (event.key === "Escape") this.focusRows();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(".af-tl-details, .af-tl-tables")) return;
    const { view } = this;
    const row = this.rows[this.active];
    const onRow = this.labels.contains(event.target);
    const actions = {
      ArrowLeft: () => view.pan(-STEP * view.length),
      ArrowRight: () => view.pan(STEP * view.length),
      "+": () => view.zoom(1 / ZOOM),
      "=": () => view.zoom(1 / ZOOM),
      "-": () => view.zoom(ZOOM),
      0: () => view.show(...view.whole),
      i: () => this.nextIncident(),
      "/": () => this.filter.focus(),
      Escape: () => this.details.replaceChildren(),
      ...(onRow && {
        ArrowUp: () => this.activate(this.active - 1),
        ArrowDown: () => this.activate(this.active + 1),
        Home: () => this.activate(0),
        End: () => this.activate(this.rows.length - 1),
        Enter: () => this.open(row),
        " ": () => this.open(row),
      }),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    this.change(action);
  }

  focusRows() {
    this.labels.querySelector('[tabindex="0"]')?.focus();
  }

  /** Zoom with Ctrl, move in time with Shift or sideways; a plain wheel scrolls the rows and the page. */
  wheel(event) {
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (event.ctrlKey) this.change(() => this.view.zoom(1.0015 ** event.deltaY, this.numberAt(event)));
    else if (sideways && Math.abs(sideways) >= Math.abs(event.shiftKey ? 0 : event.deltaY)) {
      this.change(() => this.view.pan((sideways / this.picture.width) * this.view.length));
    } else return;
    event.preventDefault();
  }

  numberAt(event) {
    return this.picture.number(event.clientX - this.canvas.getBoundingClientRect().left, this.view);
  }

  rowAt(event) {
    const y = event.clientY - this.canvas.getBoundingClientRect().top + this.scroller.scrollTop - AXIS;
    return Math.floor(y / ROW);
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.pressed = { x: event.clientX, y: event.clientY, moved: false };
    this.tip.show([]);
  }

  hover(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.tell(event);
      return;
    }
    const others = [...this.pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    const { view, picture } = this;
    if (others.length) {
      // Two fingers stretch the time between them.
      const was = Math.abs(before.clientX - others[0].clientX);
      const is = Math.abs(event.clientX - others[0].clientX);
      if (was > 10 && is > 10) view.zoom(was / is, this.numberAt(event));
    } else view.pan(((before.clientX - event.clientX) / picture.width) * view.length);
    if (Math.abs(event.clientX - this.pressed.x) > 3) this.pressed.moved = true;
    this.pointers.set(event.pointerId, event);
    this.schedule();
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    if (this.pressed?.moved || this.pointers.size) return;
    const n = this.rowAt(event);
    const row = this.rows[n];
    if (!row) return;
    this.activate(n);
    if (row.type === "lane") this.showDetails(row);
    else this.tell(event);
  }

  /** Tell what is at the pointer. */
  tell(event) {
    const row = this.rows[this.rowAt(event)];
    const box = this.stage.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const at = this.numberAt(event);
    const near = (NEAR / this.picture.width) * this.view.length;
    const lines = row && y > AXIS ? tellPlace(this.data, row, at - near, at + near, this.hidden) : [];
    this.tip.show(lines, x, y, box.width);
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.resizeObserver.disconnect();
    this.endTheme();
    this.root.remove();
  }
}

/** Draw a timeline in a notebook. */
function render({ model, el }) {
  const waiting = new Map(); // where log lines go when they come
  const readLogs = (data, event, lane, output) => {
    const id = crypto.randomUUID();
    waiting.set(id, output);
    output.hidden = false;
    output.textContent = "Reading the logs …";
    model.send({ type: "logs", id, alloc: data.allocs[data.events.alloc[event]], task: data.lanes.task[lane] });
  };
  const receive = (message) => {
    const output = waiting.get(message.id);
    if (message.type !== "logs" || !output) return;
    waiting.delete(message.id);
    output.textContent = message.text;
  };
  const shown = new Timeline(el, JSON.parse(model.get("data")), { readLogs: model.get("has_logs") ? readLogs : null });
  model.on("msg:custom", receive);
  return () => {
    model.off("msg:custom", receive);
    shown.dispose();
  };
}

/** Draw the timelines of a page: elements whose data stands in a script element within. */
function drawPage() {
  for (const element of document.querySelectorAll("[data-allocframe-timeline]:not([data-drawn])")) {
    element.dataset.drawn = "true";
    const data = JSON.parse(element.querySelector('script[type="application/json"]').textContent);
    element.querySelector(".af-tl-static")?.remove();
    new Timeline(element, data);
  }
}

drawPage();
export default { render };
