// What stands beside the picture: the text at the pointer, the events of one task, and everything as tables.

import { eachEvent } from "./data.js";
import { duration, fullTime } from "./window.js";
import { button, make, table } from "../dom.js";

const NEAR = 6; // pixels
const MOST_EVENTS = 200;
const MOST_LANES = 200;
const MOST_TOLD = 6;

/** Return the lines that tell what is at a place of a row. */
export function tellPlace(data, row, begin, end, hidden) {
  const lines = [];
  if (row.type === "changes" || row.type === "job") {
    const near = data.changes.filter(
      (change) => change.at >= begin && change.at <= end && (row.type === "changes" || change.job === row.job),
    );
    for (const change of near.slice(0, MOST_TOLD)) {
      lines.push(`${fullTime(data, change.at)} UTC  ${change.title}`, ...change.lines.map((line) => `    ${line}`));
    }
    if (near.length > MOST_TOLD) lines.push(`and ${near.length - MOST_TOLD} more changes`);
  }
  const counts = new Map();
  let single = null;
  let total = 0;
  for (const lane of row.lanes) {
    eachEvent(data, lane, begin, end, (n) => {
      const kind = data.events.kind[n];
      if (!kind || hidden[kind]) return;
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
      total++;
      single = n;
    });
  }
  if (total === 1) lines.push(`${fullTime(data, data.events.at[single])} UTC  ${eventText(data, single)}`);
  else if (total) {
    lines.push(`${fullTime(data, begin)} to ${fullTime(data, end)} UTC`);
    for (const [kind, count] of counts) lines.push(`${count.toLocaleString("en")} × ${data.kinds[kind - 1]}`);
  }
  if (!lines.length && row.type === "lane") lines.push(...tellRun(data, row.lane, begin, end));
  return lines;
}

function tellRun(data, lane, begin, end) {
  const { first, from, to, ends, version, alloc } = data.runs;
  for (let n = first[lane + 1] - 1; n >= first[lane]; n--) {
    if (from[n] > end || to[n] < begin) continue;
    const its = version[n] ? `version ${version[n] - 1}, ` : "";
    const how = ends[data.runs.end[n]];
    const until = how === "running" ? "still running" : `${how} ${fullTime(data, to[n])}`;
    return [
      `${its}allocation ${data.allocs[alloc[n]].slice(0, 8)}`,
      `ran from ${fullTime(data, from[n])} UTC for ${duration(data, to[n] - from[n])}: ${until}`,
    ];
  }
  return [];
}

function eventText(data, n) {
  const { type, types, text, texts, kind } = data.events;
  const its = kind[n] ? ` (${data.kinds[kind[n] - 1]})` : "";
  return `${types[type[n]]}${its}: ${texts[text[n]]}`;
}

export { NEAR };

/** The small text beside the pointer. */
export class Tip {
  constructor() {
    this.element = make("div", { className: "af-tl-tip", hidden: true, role: "tooltip" });
  }

  show(lines, x, y, width) {
    this.element.hidden = !lines.length;
    if (!lines.length) return;
    this.element.replaceChildren(...lines.map((line) => make("div", {}, line)));
    const right = x > width / 2;
    this.element.style.left = right ? "" : `${x + 14}px`;
    this.element.style.right = right ? `${width - x + 14}px` : "";
    this.element.style.top = `${y + 18}px`;
  }
}

/** Return the panel with the events of one instance in the window, and a way to its log lines. */
export function laneDetails(data, row, view, { close, logs }) {
  const found = [];
  eachEvent(data, row.lane, view.begin, view.end, (n) => found.push(n));
  const isElsewhere = !found.length;
  if (isElsewhere) eachEvent(data, row.lane, 0, data.span, (n) => found.push(n));
  const name = data.lanes.name[row.lane];
  const body = make("div", { className: "af-tl-scroll", tabIndex: 0, role: "region", ariaLabel: `Events of ${name}` });
  const list = (shown) => {
    const rows = shown.map((n) => [
      fullTime(data, data.events.at[n]),
      data.events.types[data.events.type[n]],
      data.events.kind[n] ? data.kinds[data.events.kind[n] - 1] : "",
      data.events.texts[data.events.text[n]],
      data.allocs[data.events.alloc[n]].slice(0, 8),
    ]);
    body.replaceChildren(table("", ["time (UTC)", "event", "kind", "what it says", "allocation"], rows));
  };
  const many = found.length > MOST_EVENTS;
  list(many ? found.slice(-MOST_EVENTS) : found);
  const where = isElsewhere ? ", none of them in this window" : " in this window";
  const count = `${found.length.toLocaleString("en")} ${found.length === 1 ? "event" : "events"}${where}`;
  const note = make("span", {}, many ? `${count}; the last ${MOST_EVENTS} are shown` : count);
  const all = many ? button("Show all", "List every event of this window", () => (list(found), all.remove())) : null;
  const output = make("pre", { className: "af-tl-logs", hidden: true, tabIndex: 0, ariaLabel: `Log lines of ${name}` });
  const last = found.at(-1) ?? data.events.first[row.lane + 1] - 1;
  const ask = logs ? button("Last log lines", "Read the end of this task's logs", () => logs(last, output)) : null;
  const head = make(
    "div", { className: "af-tl-head" }, make("b", {}, name), note, all, ask, button("Close", "Close these details", close),
  );
  return make("section", { className: "af-tl-details", ariaLabel: `Details of ${name}` }, head, output, body);
}

/** Return everything as tables, for screen readers and for those who like tables better. */
export function allTables(data, rows) {
  const span = (incident) => [incident.began, incident.last].map((at) => (at === null ? "not known" : fullTime(data, at)));
  const incidents = data.incidents.map((incident) => [
    incident.title, incident.severity, incident.state, ...span(incident), incident.cause, incident.summary,
  ]);
  const changes = data.changes.map((change) => [fullTime(data, change.at), change.title, change.lines.join("; ")]);
  const lanes = [...new Set(rows.flatMap((row) => row.lanes))];
  const told = lanes.map((lane) => laneRow(data, lane)).filter(Boolean);
  const instances = table(
    `Failures, restarts on request and losses of ${told.length.toLocaleString("en")} instances`,
    ["instance and task", "failures and requests", "by kind", "first", "last"],
    told.slice(0, MOST_LANES),
  );
  const more = told.length - MOST_LANES;
  const rest = more > 0
    ? button(`Show ${more.toLocaleString("en")} more`, "List all instances", () => {
        const whole = table("", [], told.slice(MOST_LANES));
        instances.tBodies[0].append(...whole.tBodies[0].rows);
        rest.remove();
      })
    : null;
  return [
    table("Incidents", ["incident", "severity", "state", "began", "last sign", "cause", "summary"], incidents),
    table("Changes", ["time (UTC)", "change", "what changed"], changes),
    instances,
    rest,
  ];
}

function laneRow(data, lane) {
  const { first, kind, at } = data.events;
  const counts = new Map();
  let [earliest, latest, total] = [null, null, 0];
  for (let n = first[lane]; n < first[lane + 1]; n++) {
    if (!kind[n]) continue;
    counts.set(kind[n], (counts.get(kind[n]) ?? 0) + 1);
    earliest ??= at[n];
    latest = at[n];
    total++;
  }
  if (!total) return null;
  const kinds = [...counts].map(([number, count]) => `${count} × ${data.kinds[number - 1]}`).join(", ");
  return [data.lanes.name[lane], total, kinds, fullTime(data, earliest), fullTime(data, latest)];
}
