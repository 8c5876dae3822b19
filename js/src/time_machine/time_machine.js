// The time machine: a slider over the whole time, and the state of the cluster at the chosen moment.

import { Alive, DEAD } from "../alive.js";
import { button, make, table, watchTheme } from "../dom.js";
import "./time_machine.css";

const HEIGHT = 60;
const PLAY = 120; // milliseconds between two steps
const STEPS = 200; // steps over the whole time

class TimeMachine {
  constructor(model, el) {
    this.model = model;
    this.data = JSON.parse(model.get("frame"));
    this.alive = new Alive(model, (alive) => this.showAlive(alive));
    this.build(el);
    this.onMessage = (message) => message.type === "state" && this.receive(message);
    model.on("msg:custom", this.onMessage);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
    this.endTheme = watchTheme(() => this.draw());
    this.show(this.data.first);
  }

  build(el) {
    const { begin, end } = this.data;
    this.canvas = make("canvas", { className: "af-tm-picture", height: HEIGHT, "aria-hidden": "true" });
    this.slider = make("input", {
      type: "range", min: String(begin), max: String(end), step: String(Math.max(Math.round((end - begin) / 5000), 1)),
      value: String(end), ariaLabel: "Time", oninput: () => this.ask(Number(this.slider.value)),
    });
    this.play = button("Play", "Go through the time", () => this.toggle());
    this.time = make("b", { role: "status" });
    this.totals = make("div", { className: "af-tm-totals" });
    this.body = make("div");
    this.dead = make("p", { className: "af-tm-dead", role: "alert", hidden: true }, DEAD);
    const step = (by) => () => this.go((this.asked ?? this.shown.at) + (by * (end - begin)) / STEPS);
    const bar = make(
      "div", { className: "af-tm-bar" }, this.play, button("◂", "A step back", step(-1)), button("▸", "A step on", step(1)), this.time,
    );
    const notes = this.data.notes.map((note) => make("p", { className: "af-tm-note" }, note));
    this.root = make(
      "div", { className: "allocframe-time-machine tex2jax_ignore mathjax_ignore" }, this.dead, bar,
      make("div", { className: "af-tm-time" }, this.canvas, this.slider), this.totals, ...notes, this.body,
    );
    this.root.dataset.lmSuppressShortcuts = "true"; // keeps JupyterLab's shortcuts away
    this.root.allocframeTimeMachine = this; // for tests
    el.append(this.root);
  }

  /** Ask for a moment. While an answer is awaited, only the last one that was asked for is kept. */
  ask(at) {
    this.asked = at;
    if (this.waiting) return;
    this.waiting = true;
    this.alive.send({ type: "at", at });
    this.patience = setTimeout(() => this.alive.ask(), 2000);
  }

  receive(state) {
    clearTimeout(this.patience);
    this.waiting = false;
    this.show(state);
    if (this.asked !== undefined && Math.round(this.asked) !== state.at) {
      if (Math.abs(this.asked - state.at) > 1) this.ask(this.asked);
    } else this.asked = undefined;
  }

  go(at) {
    const { begin, end } = this.data;
    const to = Math.round(Math.min(Math.max(at, begin), end));
    this.slider.value = String(to);
    this.ask(to);
    return to < end;
  }

  toggle() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = null;
    } else {
      const { begin, end } = this.data;
      if (this.shown.at >= end) this.go(begin);
      this.playing = setInterval(() => {
        if (!this.waiting && !this.go(this.shown.at + (end - begin) / STEPS)) this.toggle();
      }, PLAY);
    }
    this.play.textContent = this.playing ? "Pause" : "Play";
  }

  show(state) {
    this.shown = state;
    const { states } = this.data;
    const text = new Date(state.at).toISOString();
    this.time.textContent = `${text.slice(0, 10)} ${text.slice(11, 19)} UTC`;
    this.slider.setAttribute("aria-valuetext", this.time.textContent);
    this.totals.replaceChildren(...states.map((name) => {
      const dot = make("span", { className: "af-tm-dot" });
      dot.style.background = `var(--af-${name.replaceAll(" ", "-")})`;
      return make("span", {}, dot, `${name} ${state.totals[name].toLocaleString("en")}`);
    }));
    const rows = (list) => list.map(([name, ...counts]) => [name, ...counts.map((count) => (count ? count.toLocaleString("en") : ""))]);
    const more = (total, shown, what) => (total > shown ? make("p", { className: "af-tm-note" }, `and ${total - shown} more ${what}`) : null);
    const scroll = (label, ...content) => make("div", { className: "af-tm-scroll", tabIndex: 0, role: "region", ariaLabel: label }, ...content);
    this.body.replaceChildren(
      scroll("Jobs", table("Jobs, those in trouble first", ["job", ...states], rows(state.jobs)), more(state.jobs_total, state.jobs.length, "jobs")),
      scroll("Nodes", table("Nodes, those in trouble first", ["node", ...states], rows(state.nodes)), more(state.nodes_total, state.nodes.length, "nodes")),
      ...(state.changes.length ? [scroll("Changes", table("The last changes before", ["time (UTC)", "change", "what changed"], state.changes))] : []),
    );
    this.draw();
  }

  /** Draw how many allocations were in each state over the whole time, and where the slider is. */
  draw() {
    const { counts, states, begin, end } = this.data;
    const width = this.canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = HEIGHT * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(this.root);
    const colours = states.map((name) => style.getPropertyValue(`--af-${name.replaceAll(" ", "-")}`).trim());
    // What is over takes no place in the picture: it only grows.
    const present = states.map((name) => name !== "replaced" && name !== "complete");
    const most = Math.max(...counts.map((row) => row.reduce((a, b, n) => a + (present[n] ? b : 0), 0)), 1);
    const step = width / counts.length;
    counts.forEach((row, n) => {
      let y = HEIGHT;
      row.forEach((count, state) => {
        if (!present[state]) return;
        const high = (count / most) * HEIGHT;
        context.fillStyle = colours[state];
        context.fillRect(n * step, (y -= high), step + 0.5, high);
      });
    });
    context.fillStyle = style.color;
    context.fillRect(((this.shown.at - begin) / Math.max(end - begin, 1)) * width - 1, 0, 2, HEIGHT);
  }

  showAlive(alive) {
    this.dead.hidden = alive;
    if (!alive && this.playing) this.toggle();
    this.slider.disabled = !alive;
    this.root.querySelectorAll("button").forEach((element) => (element.disabled = !alive));
  }

  dispose() {
    clearInterval(this.playing);
    clearTimeout(this.patience);
    this.model.off("msg:custom", this.onMessage);
    this.observer.disconnect();
    this.endTheme();
    this.alive.dispose();
  }
}

function render({ model, el }) {
  const machine = new TimeMachine(model, el);
  return () => machine.dispose();
}

export default { render };
