// The table: only the rows in view exist as elements, so that thousands are no burden.

import { make } from "../dom.js";
import { age } from "./rows.js";

const ROW = 28; // height, pixels
const MOST_ROWS = 11.5; // half a row tells that there are more
const SETTLE = 400; // milliseconds after a reordering in which a click may mean the row that was there before
const TONES = {
  running: "good", pending: "wait", restarting: "wait", stopping: "wait", failed: "bad", lost: "bad", unknown: "bad",
};
const COLUMNS = [
  ["status", "status"], ["name", "instance"], ["tasks", "tasks"], ["restarts", "restarts"], ["exit", "last exit"],
  ["created", "age"], ["version", "version"], ["node", "node"], ["id", "ID"],
];

/** Return a status as a coloured word. */
export function pill(word) {
  return make("span", { className: `af-pill af-${TONES[word] ?? "flat"}` }, word);
}

export class Table {
  /** `acts` has what clicks do: choose(ids), details(id), sort(key). */
  constructor(rows, acts) {
    this.rows = rows;
    this.acts = acts;
    this.list = [];
    this.chosen = new Set();
    this.active = 0;
    this.reordered = -Infinity;
    this.build();
  }

  build() {
    this.head = make("div", { className: "af-row af-header", role: "row" });
    this.head.setAttribute("aria-rowindex", "1");
    this.body = make("div", { className: "af-body", role: "rowgroup" });
    // The header is within, so that a scroll bar narrows both alike.
    const header = make("div", { className: "af-top", role: "rowgroup" }, this.head);
    this.scroller = make("div", { className: "af-scroller", role: "presentation", onscroll: () => this.draw() }, header, this.body);
    this.element = make(
      "div", { className: "af-table", role: "grid", ariaLabel: "Allocations", onkeydown: (event) => this.key(event) },
      this.scroller,
    );
    this.element.setAttribute("aria-multiselectable", "true");
    this.scroller.addEventListener("pointerenter", () => (this.inside = true));
    this.scroller.addEventListener("pointerleave", () => (this.inside = false));
    this.body.addEventListener("pointerdown", () => this.hold());
    this.drawHead();
  }

  drawHead() {
    const cells = COLUMNS.map(([key, title]) => {
      const sorted = this.rows.key === key;
      const arrow = sorted ? (this.rows.descending ? " ▾" : " ▴") : "";
      const cell = make("button", { type: "button", onclick: () => this.acts.sort(key) }, title + arrow);
      const head = make("div", { className: `af-cell af-c-${key}`, role: "columnheader" }, cell);
      if (sorted) head.setAttribute("aria-sort", this.rows.descending ? "descending" : "ascending");
      return head;
    });
    this.head.replaceChildren(make("div", { className: "af-cell af-c-box", role: "columnheader", ariaLabel: "chosen" }), ...cells);
  }

  /** Whether the rows must stay where they are: someone may be about to click. */
  get isBusy() {
    return this.inside || this.chosen.size > 0 || this.element.contains(document.activeElement);
  }

  /** Show these rows. `moved` says that they may be in another order than before. */
  show(list, moved) {
    const id = this.list[this.active]?.id;
    this.list = list;
    this.active = Math.max(list.findIndex((row) => row.id === id), 0);
    if (moved) this.reordered = performance.now();
    this.body.style.height = `${list.length * ROW}px`;
    this.scroller.style.height = `${(Math.min(Math.max(list.length, 3), MOST_ROWS) + 1) * ROW}px`;
    this.element.setAttribute("aria-rowcount", String(list.length + 1));
    this.draw();
  }

  /** Leave the rows as they are until the button is up: a click on a row that was replaced meanwhile is lost. */
  hold() {
    this.held = true;
    const release = () => {
      for (const name of ["pointerup", "pointercancel"]) window.removeEventListener(name, release, true);
      // after the click, which comes right after the button
      setTimeout(() => {
        this.held = false;
        this.draw();
      });
    };
    for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, release, true);
  }

  /** Where the rows in view begin, and how high they are together. */
  get seen() {
    return [this.scroller.scrollTop, this.scroller.clientHeight - ROW];
  }

  /** Go to the first row. */
  rewind() {
    this.active = 0;
    this.scroller.scrollTop = 0;
  }

  choose(ids) {
    this.chosen = new Set(ids);
    this.draw();
  }

  draw() {
    if (this.held) return;
    const [scrollTop, clientHeight] = this.seen;
    const from = Math.max(Math.floor(scrollTop / ROW) - 2, 0);
    const to = Math.min(Math.ceil((scrollTop + clientHeight) / ROW) + 2, this.list.length);
    const focused = this.body.contains(document.activeElement);
    const made = [];
    for (let n = from; n < to; n++) made.push(this.row(this.list[n], n));
    this.body.replaceChildren(...made);
    if (focused) this.body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  row(row, n) {
    const isChosen = this.chosen.has(row.id);
    const cells = {
      status: pill(row.status), name: name(row), tasks: row.tasks, restarts: row.restarts ? String(row.restarts) : "",
      exit: row.exit, created: age(row.created), version: row.version, node: row.node, id: row.id.slice(0, 8),
    };
    const element = make(
      "div", { className: "af-row", role: "row", tabIndex: n === this.active ? 0 : -1 },
      make("div", { className: "af-cell af-c-box", role: "gridcell" }, isChosen ? "☑" : "☐"),
      ...COLUMNS.map(([key]) => {
        const cell = make("div", { className: `af-cell af-c-${key}`, role: "gridcell" }, cells[key]);
        if (typeof cells[key] === "string") cell.title = cells[key];
        return cell;
      }),
    );
    element.dataset.id = row.id;
    element.style.top = `${n * ROW}px`;
    element.setAttribute("aria-selected", String(isChosen));
    element.setAttribute("aria-rowindex", String(n + 2));
    element.addEventListener("focus", () => this.setActive(element));
    element.addEventListener("click", (event) => this.click(event, row.id));
    element.addEventListener("dblclick", () => this.acts.details(row.id));
    return element;
  }

  /** Make the row with the focus the one that keys start from. No redraw: the mouse may be down on it. */
  setActive(element) {
    this.active = Math.max(this.list.findIndex((row) => row.id === element.dataset.id), 0);
    for (const each of this.body.children) each.tabIndex = each === element ? 0 : -1;
  }

  /** Choose a row: alone; with Ctrl or its box, as well as the others; with Shift, all up to it. */
  click(event, id) {
    const n = this.list.findIndex((row) => row.id === id);
    if (n < 0 || performance.now() - this.reordered < SETTLE) return;
    const adds = event.ctrlKey || event.metaKey || event.target.closest(".af-c-box");
    let ids = [id];
    if (event.shiftKey) {
      const [a, b] = [this.anchor ?? n, n].sort((x, y) => x - y);
      ids = this.list.slice(a, b + 1).map((row) => row.id);
    } else if (adds) ids = toggled(this.chosen, id);
    if (!event.shiftKey) this.anchor = n;
    this.active = n;
    this.acts.choose(ids);
    if (event.detail === 1 && !adds && !event.shiftKey) this.acts.details(id);
  }

  key(event) {
    if (!this.body.contains(event.target)) return;
    const page = Math.floor(this.seen[1] / ROW);
    const row = this.list[this.active];
    const moves = {
      ArrowUp: this.active - 1, ArrowDown: this.active + 1, PageUp: this.active - page, PageDown: this.active + page,
      Home: 0, End: this.list.length - 1,
    };
    if (event.key in moves) this.move(moves[event.key]);
    else if (event.key === " " && row) this.acts.choose(toggled(this.chosen, row.id));
    else if (event.key === "Enter" && row) {
      this.acts.choose([row.id]);
      this.acts.details(row.id);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(n) {
    this.active = Math.min(Math.max(n, 0), this.list.length - 1);
    const top = this.active * ROW;
    const [scrollTop, clientHeight] = this.seen;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.scroller.scrollTop = top + ROW - clientHeight;
    this.draw();
    this.body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }
}

/** Return the IDs with one of them put in or taken out. */
function toggled(chosen, id) {
  const ids = new Set(chosen);
  if (!ids.delete(id)) ids.add(id);
  return [...ids];
}

/** Return an instance's name: its end tells it from others, so only the front may be cut. */
function name(row) {
  const at = row.name.lastIndexOf(".");
  const [front, tail] = at > 0 ? [row.name.slice(0, at), row.name.slice(at)] : [row.name, ""];
  const element = make(
    "span", { className: "af-name", title: `${row.namespace}/${row.name}` },
    make("span", { className: "af-front" }, front), make("span", { className: "af-tail" }, tail),
  );
  return element;
}
