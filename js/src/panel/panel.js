// The control panel's page. What it shows comes from the kernel; only the filter and the order are its own.

import { Alive, DEAD, hideSaved } from "../alive.js";
import { button, make } from "../dom.js";
import { drawDetails } from "./details.js";
import { Rows } from "./rows.js";
import { pill, Table } from "./table.js";
import "./panel.css";

const SILENCE = 3; // seconds without an answer after which the panel says so
const ACTIONS = { stop: "Stop", restart: "Restart", signal: "Signal", exec: "Terminal" };

class Panel {
  constructor(model, el) {
    this.model = model;
    this.rows = new Rows();
    this.alive = new Alive(model, () => this.update());
    this.table = new Table(this.rows, {
      choose: (ids) => this.send({ type: "choose", ids }),
      details: (id) => this.send({ type: "details", id }),
      sort: (key) => this.sortBy(key),
    });
    this.build(el);
    this.onState = () => this.update();
    this.onTerminal = () => this.showTerminal();
    this.onMessage = (message) => this.receive(message);
    model.on("change:state", this.onState);
    model.on("change:terminal", this.onTerminal);
    model.on("msg:custom", this.onMessage);
    this.timer = setInterval(() => this.tick(), 500);
    this.showSaved = hideSaved(model.get("saved"));
    this.update();
    this.onTerminal();
    this.send({ type: "hello" });
  }

  send(message) {
    this.alive.send(message);
  }

  build(el) {
    this.filter = make("input", {
      type: "search", placeholder: "Filter: job, node, status, ID …", ariaLabel: "Filter",
      oninput: () => this.refilter(),
    });
    this.all = button("", "Choose all that match the filter", () => {
      this.send({ type: "choose", ids: this.table.list.map((row) => row.id) });
    });
    this.refresh = button("Refresh", "Fetch the list and sort it anew", () => {
      this.resort();
      this.send({ type: "refresh" });
    });
    this.auto = make("input", { type: "checkbox", onchange: () => this.send({ type: "auto", on: this.auto.checked }) });
    this.chips = make("div", { className: "af-chips", role: "group", ariaLabel: "Filter by status" });
    this.summary = make("div", { className: "af-note", role: "status" });
    this.chosen = make("div", { className: "af-chosen" });
    this.tasks = make("select", { ariaLabel: "Tasks", onchange: () => this.sendTasks() });
    this.signal = make("select", {
      ariaLabel: "Signal", onchange: () => this.send({ type: "signal", signal: this.signal.value }),
    });
    this.dryRun = make("input", {
      type: "checkbox", onchange: () => this.send({ type: "dry run", on: this.dryRun.checked }),
    });
    this.buttons = Object.fromEntries(
      Object.entries(ACTIONS).map(([action, label]) => [action, button(label, label, () => this.send({ type: "ask", action }))]),
    );
    this.notes = make("div", { className: "af-note" });
    this.question = make("div", { className: "af-question" });
    this.confirm = button("Confirm", "Do it", () => this.send({ type: "confirm", number: this.number }));
    this.cancel = button("Cancel", "Do nothing", () => this.send({ type: "cancel" }));
    this.silence = make("div", { className: "af-warn", role: "status", hidden: true });
    this.results = make("div", { className: "af-results", ariaLabel: "Results", role: "log" });
    this.details = make("div");
    this.terminal = make("div");
    this.dead = make("div", { className: "af-dead", role: "alert", hidden: true }, DEAD);
    const check = (box, text) => make("label", {}, box, text);
    this.root = make(
      "div", { className: "allocframe-panel tex2jax_ignore mathjax_ignore" }, this.dead,
      make("div", { className: "af-heading" }, this.model.get("heading")),
      make("div", { className: "af-bar" }, this.filter, this.all, this.refresh, check(this.auto, "auto")),
      this.chips, this.table.element, this.summary, this.chosen,
      make("div", { className: "af-bar" }, this.tasks, this.signal, check(this.dryRun, "Dry run"), ...Object.values(this.buttons)),
      this.notes, this.question, make("div", { className: "af-bar" }, this.confirm, this.cancel), this.silence, this.results,
      this.details,
    );
    this.root.dataset.lmSuppressShortcuts = "true"; // keeps JupyterLab's shortcuts away
    el.append(this.root, this.terminal); // the terminal has a style of its own
  }

  // Rows

  receive(message) {
    if (message.type === "rows") {
      const moved = this.rows.byId.size > 0;
      this.rows.byId.clear();
      this.rows.order = [];
      this.rows.take(message.rows);
      this.rows.sort();
      this.version = message.number;
      this.show(moved);
    } else if (message.type === "changed" && this.version !== undefined) {
      if (message.number !== this.version + 1) {
        this.send({ type: "hello" }); // one was missed
        return;
      }
      this.version = message.number;
      this.rows.take(message.rows, message.removed);
      const moved = !this.table.isBusy;
      if (moved) this.rows.sort();
      this.show(moved);
    }
  }

  show(moved) {
    this.table.show(this.rows.shown(), moved);
    const { statuses } = this.rows;
    const chips = this.rows.counts().map(([status, count]) => {
      const chip = button("", `Show only ${status}, or all again`, () => {
        if (!statuses.delete(status)) statuses.add(status);
        this.show(true);
        this.chips.querySelector(`[data-status="${CSS.escape(status)}"]`)?.focus();
      });
      chip.append(pill(status), ` ${count.toLocaleString("en")}`);
      chip.dataset.status = status;
      chip.setAttribute("aria-pressed", String(statuses.has(status)));
      return chip;
    });
    this.chips.replaceChildren(...chips);
    this.update();
  }

  refilter() {
    this.rows.filter(this.filter.value);
    this.show(true);
  }

  resort() {
    this.rows.sort();
    this.show(true);
  }

  sortBy(key) {
    this.rows.descending = this.rows.key === key && !this.rows.descending;
    this.rows.key = key;
    this.table.drawHead();
    this.table.rewind();
    this.resort();
  }

  // State

  /** Show the state of the kernel. */
  update() {
    const state = this.model.get("state");
    const dead = !this.alive.alive;
    this.dead.hidden = !dead;
    this.root.classList.toggle("af-is-dead", dead);
    if (!state.disabled) return;
    this.took = performance.now();
    const matching = this.table.list.length;
    const off = matching > state.limit;
    this.all.textContent = off ? `${matching.toLocaleString("en")} match; at most ${state.limit} at once` : `Choose all ${matching}`;
    this.all.disabled = dead || off || !matching;
    this.refresh.disabled = this.auto.disabled = this.tasks.disabled = this.signal.disabled = this.dryRun.disabled = dead;
    this.auto.checked = state.auto;
    this.dryRun.checked = state.dry_run;
    this.table.choose(state.chosen);
    const known = state.total.toLocaleString("en");
    const filtered = matching < state.total ? `${matching.toLocaleString("en")} of ${known} shown` : `${known} allocations`;
    this.summary.textContent = state.error || (state.fetched ? `${filtered} · ${state.fetched}` : "Fetching the allocations …");
    this.summary.classList.toggle("af-warn", !!state.error);
    this.showChosen(state);
    this.showFields(state);
    this.showActions(state, dead);
    this.showQuestion(state, dead);
    this.showResults(state);
    this.showDetails(state);
    this.details.querySelectorAll("button").forEach((element) => this.switch(element, state, dead));
    this.tick();
  }

  showChosen(state) {
    const count = state.chosen.length;
    const more = count - state.names.length;
    const text = [...state.names, ...(more > 0 ? [`and ${more} more`] : [])].join(", ");
    this.chosen.textContent = count ? `Chosen (${count}): ${text}` : "Nothing is chosen. Click a row; Ctrl-click or tick the box to add more.";
  }

  showFields(state) {
    const key = JSON.stringify([state.scopes, state.signals]);
    if (key !== this.fields) {
      this.fields = key;
      this.tasks.replaceChildren(...state.scopes.map(([label], n) => make("option", { value: String(n) }, label)));
      const none = make("option", { value: "" }, "choose a signal");
      this.signal.replaceChildren(none, ...state.signals.map((name) => make("option", { value: name }, name)));
    }
    const [scope, task] = state.scope;
    this.tasks.value = String(state.scopes.findIndex((each) => each[1] === scope && each[2] === task));
    this.signal.value = state.signal;
  }

  sendTasks() {
    const [, scope, task] = this.model.get("state").scopes[Number(this.tasks.value)];
    this.send({ type: "tasks", scope, task });
  }

  showActions(state, dead) {
    const reasons = new Map();
    for (const [action, element] of Object.entries(this.buttons)) {
      const reason = state.disabled[action];
      element.disabled = dead || !!reason;
      if (reason) reasons.set(reason, [...(reasons.get(reason) ?? []), ACTIONS[action]]);
    }
    const told = [...reasons].map(([reason, names]) => `${names.join(", ")} (${reason})`);
    this.notes.textContent = told.length ? `Not available: ${told.join("; ")}.` : "";
  }

  /** Turn a button of the details on or off: for the reasons of the bar, if they are about this allocation. */
  switch(element, state, dead) {
    const { action } = element.dataset;
    const { chosen, details, disabled, read_only: readOnly } = state;
    const isChosen = chosen.length === 1 && chosen[0] === details?.id;
    const reason = action && (isChosen || readOnly) ? disabled[action] : "";
    element.disabled = dead || !!reason;
    if (action) element.title = reason ? `Not available: ${reason}` : `${ACTIONS[action]} this allocation`;
  }

  showQuestion(state, dead) {
    const { question } = state;
    this.number = question?.number ?? -1;
    const tone = !question ? (state.warning ? "warn" : "note") : question.dry_run ? "dry" : "ask";
    this.question.className = `af-question af-${tone}`;
    if (question) {
      const first = question.dry_run ? "Dry run. Everything but sending this:" : "This will happen:";
      const items = [...question.items, ...question.left_out].map((text) => make("li", {}, text));
      this.question.replaceChildren(
        ...(question.reason ? [make("p", {}, question.reason)] : []), make("b", {}, first), make("ul", {}, ...items),
      );
      this.question.setAttribute("role", "alert");
    } else {
      this.question.textContent = state.message;
      this.question.setAttribute("role", "status");
    }
    this.confirm.classList.toggle("af-danger", question?.action === "stop" && !question.dry_run);
    this.cancel.disabled = dead || !question;
  }

  /** Count down, and tell how long the cluster has not answered. */
  tick() {
    const { question, busy, progress } = this.model.get("state");
    const passed = (performance.now() - this.took) / 1000;
    const left = question ? question.left - passed : 0;
    const action = question ? `${question.dry_run ? "dry run of " : ""}${question.action}` : "";
    this.confirm.textContent = left > 0 ? `Confirm ${action} (${Math.ceil(left)} s)` : "Confirm";
    this.confirm.disabled = !this.alive.alive || left <= 0 || question.wait > passed;
    const waited = busy ? busy.seconds + passed : 0;
    const silent = this.alive.alive && waited > SILENCE;
    this.silence.hidden = !silent && !progress;
    if (!silent && !progress) return;
    const told = silent ? `The cluster has given no answer for ${Math.floor(waited)} s (${progress || busy.what}).` : progress;
    if (!this.stop) this.stop = button("Stop waiting", "Wait no longer for an answer", () => this.send({ type: "give up" }));
    this.told ??= make("span");
    this.told.textContent = told;
    if (!this.told.isConnected) this.silence.append(this.told, this.stop);
    this.stop.hidden = !silent;
  }

  showResults(state) {
    const key = JSON.stringify(state.results);
    if (key === this.shownResults) return;
    this.shownResults = key;
    const lines = state.results.map((result) => {
      const said = [result.detail, result.follow_up && `→ ${result.follow_up}`].filter(Boolean).join(" ");
      return make(
        "div", { className: "af-result" }, make("span", { className: "af-note" }, result.time),
        make("span", { className: `af-pill af-${tone(result.outcome)}` }, result.outcome), make("span", {}, result.action),
        make("b", {}, result.name), make("code", {}, result.id), make("span", {}, said),
      );
    });
    this.results.replaceChildren(...lines);
  }

  showDetails(state) {
    const key = JSON.stringify(state.details);
    if (key === this.shownDetails) return;
    this.shownDetails = key;
    const acts = {
      details: (id) => this.send({ type: "details", id }),
      askOne: (id, action) => {
        this.send({ type: "choose", ids: [id] });
        this.send({ type: "ask", action });
      },
    };
    this.details.replaceChildren(...(state.details ? [drawDetails(state.details, acts)] : []));
  }

  /** Show the terminal, which is a widget of its own. */
  async showTerminal() {
    const name = this.model.get("terminal");
    const manager = this.model.widget_manager;
    this.terminal.replaceChildren();
    if (!name) return;
    const child = typeof name === "string" ? await manager.get_model(name.replace(/^IPY_MODEL_/, "")) : name;
    const view = await manager.create_view(child);
    this.terminal.replaceChildren(view.el);
    this.terminal.scrollIntoView({ block: "nearest" });
    view.trigger?.("displayed");
  }

  dispose() {
    clearInterval(this.timer);
    this.model.off("change:state", this.onState);
    this.model.off("change:terminal", this.onTerminal);
    this.model.off("msg:custom", this.onMessage);
    this.alive.dispose();
    this.showSaved();
  }
}

function tone(outcome) {
  if (outcome === "done") return "good";
  if (outcome === "dry run") return "flat";
  return ["changed", "unknown"].includes(outcome) ? "wait" : "bad";
}

function render({ model, el }) {
  const panel = new Panel(model, el);
  return () => panel.dispose();
}

export default { render };
