// The details of one allocation: facts, tasks, events with their meaning, log lines, usage, and its chain.

import { button, make, table } from "../dom.js";
import { pill } from "./table.js";

/** Return the panel of details; `acts` has what its buttons do. */
export function drawDetails(details, acts) {
  const title = make("b", {}, `Allocation ${details.short}`);
  const note = make("span", { className: "af-note" }, details.reading ? `reading ${details.reading} …` : "");
  const buttons = ["stop", "restart", "exec"].map((action) => {
    const label = { stop: "Stop", restart: "Restart", exec: "Terminal" }[action];
    const element = button(label, `${label} this allocation`, () => acts.askOne(details.id, action));
    element.dataset.action = action;
    return element;
  });
  const head = make("div", { className: "af-bar" }, title, note, ...buttons, button("Close", "Close the details", () => acts.details("")));
  const section = make("section", { className: "af-details", ariaLabel: `Details of ${details.short}` }, head);
  if (details.error) section.append(make("p", { className: "af-warn" }, details.error));
  if (!details.facts) return section;
  const facts = make("dl", {}, ...details.facts.flatMap(([name, value]) => [
    make("dt", {}, name), make("dd", {}, name === "status" ? pill(value) : value),
  ]));
  section.append(facts);
  if (details.chain.length) section.append(make("p", {}, `Before and after: ${details.chain.join("; ")}.`));
  section.append(part("Tasks", table("", ["task", "state", "restarts", "started (UTC)"], details.tasks)));
  if (details.usage) section.append(part("Usage", usage(details.usage)));
  const total = details.events_total;
  const shown = details.events.length;
  const count = shown < total ? `the last ${shown} of ${total}` : `${total}`;
  const events = table("", ["time (UTC)", "task", "event", "what it says", "what it means"], details.events);
  section.append(part(`Events (${count})`, scroll(events, "Events")));
  for (const [task, text] of details.logs ?? []) {
    section.append(part(`Log lines of ${task}`, make("pre", { tabIndex: 0, ariaLabel: `Log lines of ${task}` }, text)));
  }
  return section;
}

function part(title, content) {
  return make("div", { className: "af-part" }, make("h4", {}, title), content);
}

function scroll(content, label) {
  return make("div", { className: "af-scroll", tabIndex: 0, role: "region", ariaLabel: label }, content);
}

function usage(rows) {
  return typeof rows === "string" ? make("p", {}, rows) : table("", ["task", "memory", "CPU"], rows);
}
