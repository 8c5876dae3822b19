// Draws the rows on a canvas. Events that would lie on each other are drawn as one bar, as high as they are many.

import { eachEvent, lowerBound } from "./data.js";
import { ticks } from "./window.js";

export const ROW = 22; // height of a row, pixels
export const AXIS = 22; // height of the axis
const BIN = 5; // width within which events are drawn as one, pixels
const RUN_COLOURS = ["--af-run", "--af-run-failed", "--af-run-lost", "--af-run", "--af-run-unknown"];
const OPERATOR = /^(operator|drain|eligibility|dispatch|purge|scale)/;

export const SHAPES = ["triangle", "plus", "pentagon", "square", "circle", "diamond", "cross", "down"];
/** Name of the colour of each kind, in the order of the data's kinds. */
export function colourName(kind) {
  return `--af-kind-${kind.replaceAll(" ", "-")}`;
}

/** Read the colours of the theme from the style sheet. */
export function readTheme(element, kinds) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(name).trim();
  return {
    ground: colour("--af-ground"), text: colour("--af-text"), weak: colour("--af-weak"), line: colour("--af-line"),
    shade: colour("--af-shade"), active: colour("--af-active"), gap: colour("--af-gap"),
    operator: colour("--af-operator"), change: colour("--af-change"), node: colour("--af-node"),
    runs: RUN_COLOURS.map(colour),
    kinds: ["", ...kinds.map((kind) => colour(colourName(kind)))],
    font: style.fontFamily,
  };
}

export class Picture {
  constructor(canvas, data) {
    this.canvas = canvas;
    this.data = data;
    this.context = canvas.getContext("2d", { alpha: false });
    this.counts = new Uint32Array(0);
    this.events = new Int32Array(0);
  }

  /** Fit the canvas to its place. */
  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  x(number, view) {
    return ((number - view.begin) / view.length) * this.width;
  }

  number(x, view) {
    return view.begin + (x / this.width) * view.length;
  }

  /** Draw the rows from `scroll` pixels on. `hidden` has the kinds that are switched off. */
  draw(view, rows, scroll, { theme, active, hidden }) {
    const { context, width, height } = this;
    this.theme = theme;
    this.hidden = hidden;
    context.fillStyle = theme.ground;
    context.fillRect(0, 0, width, height);
    this.shade(view);
    this.grid(view);
    const from = Math.max(Math.floor((scroll - AXIS) / ROW), 0);
    const to = Math.min(Math.ceil((scroll + height) / ROW), rows.length);
    for (let n = from; n < to; n++) this.row(view, rows[n], n * ROW + AXIS - scroll, n === active);
    this.axis(view);
  }

  /** Shade what nobody watched. */
  shade(view) {
    const { context, data, theme, height } = this;
    context.fillStyle = theme.gap;
    for (const [begin, end] of data.gaps) {
      const left = this.x(begin, view);
      context.fillRect(left, AXIS, Math.max(this.x(end, view) - left, 1), height);
    }
  }

  grid(view) {
    const { context, theme, height } = this;
    this.ticks = ticks(this.data, view.begin, view.end, Math.max(this.width / 80, 2));
    context.fillStyle = theme.line;
    for (const [number] of this.ticks) context.fillRect(Math.round(this.x(number, view)), AXIS, 1, height - AXIS);
  }

  axis(view) {
    const { context, theme, width } = this;
    context.fillStyle = theme.ground;
    context.fillRect(0, 0, width, AXIS);
    context.font = `11px ${theme.font}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.fillStyle = theme.weak;
    for (const [number, label] of this.ticks) {
      const x = this.x(number, view);
      const half = context.measureText(label).width / 2 + 2;
      context.fillText(label, Math.min(Math.max(x, half), width - half), AXIS / 2);
    }
    context.fillStyle = theme.line;
    context.fillRect(0, AXIS - 1, width, 1);
  }

  row(view, row, y, active) {
    const { context, theme, width } = this;
    if (active) {
      context.fillStyle = theme.active;
      context.fillRect(0, y, width, ROW);
    }
    if (row.incident?.began != null) this.span(view, row.incident, y);
    if (row.type === "changes") this.changes(view, y, () => true);
    else if (row.type === "lane") this.runs(view, row.lane, y);
    this.bins(view, row, y);
    if (row.type === "job") this.changes(view, y, (change) => change.job === row.job);
    context.fillStyle = theme.line;
    context.fillRect(0, y + ROW - 1, width, 1);
  }

  /** Show when an incident was. */
  span(view, incident, y) {
    const { context, theme, data } = this;
    const left = this.x(incident.began, view);
    const end = incident.state === "ongoing" ? data.span : incident.last ?? incident.began;
    context.fillStyle = theme.shade;
    context.fillRect(left, y, Math.max(this.x(end, view) - left, 3), ROW - 1);
  }

  runs(view, lane, y) {
    const { first, from, to, end } = this.data.runs;
    const { context, theme, width } = this;
    const last = lowerBound(from, view.end, first[lane], first[lane + 1]);
    // Runs of a slot may overlap in a rollout, so none can be skipped by its end.
    for (let n = first[lane]; n < last; n++) {
      if (to[n] < view.begin) continue;
      const left = Math.max(this.x(from[n], view), -2);
      const right = Math.min(this.x(to[n], view), width + 2);
      context.fillStyle = theme.runs[end[n]];
      context.fillRect(left, y + 6, Math.max(right - left - 0.5, 0.5), ROW - 13);
    }
  }

  /** Count the events of a row for each kind and bin, and draw them. */
  bins(view, row, y) {
    const { data, width, hidden } = this;
    const bins = Math.ceil(width / BIN) + 2;
    const kinds = data.kinds.length + 1;
    if (this.counts.length !== bins * kinds) {
      this.counts = new Uint32Array(bins * kinds);
      this.events = new Int32Array(bins);
    }
    const { counts, events } = this;
    counts.fill(0);
    const { at, kind } = data.events;
    const scale = width / view.length / BIN;
    // Bins are counted from a fixed time, so that they do not flicker while panning.
    const offset = Math.floor((view.begin * width) / view.length / BIN);
    const shift = offset * BIN - (view.begin * width) / view.length;
    const isLane = row.type === "lane";
    for (const lane of row.lanes) {
      eachEvent(data, lane, view.begin, view.end, (n) => {
        if ((!kind[n] && !isLane) || hidden[kind[n]]) return;
        const bin = Math.floor(at[n] * scale) - offset;
        counts[bin * kinds + kind[n]]++;
        events[bin] = n;
      });
    }
    for (let bin = 0; bin < bins; bin++) this.bin(bin * BIN + shift, y, bin, kinds, view);
  }

  bin(x, y, bin, kinds, view) {
    const { counts, context, theme } = this;
    const start = bin * kinds;
    let total = 0;
    let most = 0;
    for (let kind = 1; kind < kinds; kind++) {
      total += counts[start + kind];
      if (counts[start + kind] > counts[start + most] || !most) most = kind;
    }
    if (!total) {
      if (!counts[start]) return;
      context.fillStyle = theme.weak; // an event that is not a failure: a small tick
      context.fillRect(x + BIN / 2, y + ROW - 6, 1, 3);
      return;
    }
    if (total === 1) {
      context.fillStyle = theme.kinds[most];
      drawShape(context, SHAPES[most - 1], this.x(this.data.events.at[this.events[bin]], view), y + ROW / 2 - 0.5, 5);
      return;
    }
    // One bar for all of them, split by kind.
    const high = Math.min(6 + 2.5 * Math.log2(total), ROW - 4);
    let top = y + ROW / 2 - 0.5 + high / 2;
    for (let kind = 1; kind < kinds; kind++) {
      const part = (high * counts[start + kind]) / total;
      if (!part) continue;
      top -= part;
      context.fillStyle = theme.kinds[kind];
      context.fillRect(x, top, BIN - 0.5, part);
    }
  }

  changes(view, y, wanted) {
    const { context, theme, data } = this;
    let last = -Infinity;
    for (const change of data.changes) {
      if (change.at < view.begin || change.at > view.end || !wanted(change)) continue;
      const x = this.x(change.at, view);
      if (x - last < 2) continue; // it would lie on the one before
      last = x;
      context.fillStyle = theme[changeClass(change)];
      context.fillRect(x - 0.5, y + 2, 1.5, ROW - 5);
      drawShape(context, changeShape(change), x, y + 6, 4.5);
    }
  }
}

/** Return "operator", "node" or "change": what a change is to the reader. */
export function changeClass(change) {
  if (change.kind.startsWith("node")) return "node";
  return OPERATOR.test(change.kind) ? "operator" : "change";
}

function changeShape(change) {
  return { node: "square", operator: "triangle", change: "diamond" }[changeClass(change)];
}

const POLYGONS = {
  triangle: [[0, -1], [0.95, 0.8], [-0.95, 0.8]],
  down: [[0, 1], [0.95, -0.8], [-0.95, -0.8]],
  square: [[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]],
  diamond: [[0, -1], [0.9, 0], [0, 1], [-0.9, 0]],
  pentagon: [[0, -1], [0.95, -0.3], [0.6, 0.8], [-0.6, 0.8], [-0.95, -0.3]],
  plus: [[-0.35, -1], [0.35, -1], [0.35, -0.35], [1, -0.35], [1, 0.35], [0.35, 0.35], [0.35, 1], [-0.35, 1],
    [-0.35, 0.35], [-1, 0.35], [-1, -0.35], [-0.35, -0.35]],
  cross: [[-1, -0.6], [-0.6, -1], [0, -0.4], [0.6, -1], [1, -0.6], [0.4, 0], [1, 0.6], [0.6, 1], [0, 0.4],
    [-0.6, 1], [-1, 0.6], [-0.4, 0]],
};

/** Draw a mark; kinds differ in their shape as well as in their colour. */
export function drawShape(context, shape, x, y, size) {
  context.beginPath();
  if (shape === "circle") context.arc(x, y, size * 0.85, 0, 7);
  else POLYGONS[shape].forEach(([dx, dy]) => context.lineTo(x + dx * size, y + dy * size));
  context.closePath();
  context.fill();
}
