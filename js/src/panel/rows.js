// The rows of the table: which are shown, and in which order. They move only when someone wants them to.

const COLUMNS = ["id", "namespace", "job", "name", "status", "tasks", "restarts", "exit", "created", "version", "node"];
const RANK = ["failed", "lost", "unknown", "restarting", "pending", "running", "stopping", "replaced", "complete", "removed"];

const rank = (row) => (RANK.indexOf(row.status) + RANK.length + 1) % (RANK.length + 1);
const natural = new Intl.Collator("en", { numeric: true }).compare;

export class Rows {
  constructor() {
    this.byId = new Map();
    this.order = []; // IDs in the order in which they are shown, before the filter
    this.words = [];
    this.statuses = new Set(); // chips that are on; none means all
    this.key = "status";
    this.descending = false;
  }

  /** Take all rows, or those that changed. Rows that are new come last until `sort` is called. */
  take(columns, removed = []) {
    for (let n = 0; n < columns.id.length; n++) {
      const row = Object.fromEntries(COLUMNS.map((name) => [name, columns[name][n]]));
      row.text = [row.id, row.namespace, row.name, row.status, row.node, row.tasks, row.exit].join(" ").toLowerCase();
      if (!this.byId.has(row.id)) this.order.push(row.id);
      this.byId.set(row.id, row);
    }
    for (const id of removed) {
      const row = this.byId.get(id);
      if (row) Object.assign(row, { status: "removed", text: `${row.text} removed` });
    }
  }

  /** Sort the rows, and leave out those that were removed. */
  sort() {
    for (const [id, row] of this.byId) if (row.status === "removed") this.byId.delete(id);
    const rows = [...this.byId.values()];
    const by = {
      status: (a, b) => rank(a) - rank(b),
      restarts: (a, b) => b.restarts - a.restarts,
      created: (a, b) => b.created - a.created,
      version: (a, b) => Number(b.version) - Number(a.version),
    };
    const first = by[this.key] ?? ((a, b) => natural(a[this.key], b[this.key]));
    const sign = this.descending ? -1 : 1;
    rows.sort((a, b) => sign * first(a, b) || rank(a) - rank(b) || natural(a.name, b.name) || natural(a.id, b.id));
    this.order = rows.map((row) => row.id);
  }

  filter(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
  }

  /** Return the rows that match, in order. */
  shown() {
    const rows = this.order.map((id) => this.byId.get(id));
    return rows.filter((row) => this.matches(row) && (!this.statuses.size || this.statuses.has(row.status)));
  }

  matches(row) {
    return this.words.every((word) => row.text.includes(word));
  }

  /** Return how many of the rows that match the text have each status, the worst first. */
  counts() {
    const counts = new Map();
    for (const row of this.byId.values()) {
      if (this.matches(row)) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
    }
    return [...counts].sort((a, b) => rank({ status: a[0] }) - rank({ status: b[0] }));
  }
}

/** Return how long ago something was, in one unit. */
export function age(milliseconds, now = Date.now()) {
  if (!milliseconds) return "";
  const seconds = Math.max((now - milliseconds) / 1000, 0);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}
