// One view of a terminal. It draws the output that the kernel sends, and sends what is typed. Output is
// numbered by byte: if a view misses some, it attaches again and gets a replay. Input is numbered by piece,
// because a kernel receives messages on two threads, where they can overtake each other.

import { FitAddon } from "@xterm/addon-fit";
import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { Alive, hideSaved } from "./alive.js";
import { harden, plainPaste } from "./harden.js";
import { isOpen, statusBar } from "./status.js";
import "./terminal.css";

const ACKNOWLEDGE_BYTES = 64 << 10;
const MAX_INPUT = 16 << 10;
const RESET = "\x1bc";

// Jupyter's server holds back small messages until the browser has acknowledged the last one (Nagle's
// algorithm). A browser delays that by about 40 ms unless it has something to send. So after a key, send
// small messages at these times (ms) until the echo has come.
const NUDGE_DELAYS = [4, 8, 16, 32];

// Drawing costs more than parsing. Larger messages than this (bytes) are not echoes of typing: collect them
// and write them to xterm.js only so often (ms).
const FLOOD_BYTES = 8 << 10;
const FLOOD_INTERVAL = 100;

const FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
const OPTIONS = {
  allowProposedApi: true,
  cursorBlink: true,
  fontSize: 13,
  scrollback: 5000,
  theme: { background: "#101418", foreground: "#e6e6e6" },
};

class View {
  constructor(model, el) {
    this.model = model;
    this.id = crypto.randomUUID();
    this.next = null; // offset of the next expected byte; null until the first replay
    this.acknowledged = 0;
    this.replaying = false;
    this.inputs = 0; // pieces of input sent so far
    this.nudges = [];
    this.pending = []; // output that is not yet written to xterm.js, with its end offsets
    this.flushTimer = null;
    this.lastFlush = 0;
    this.encoder = new TextEncoder();
    this.alive = new Alive(model, () => this.onStatus());
    this.bar = statusBar(model, this.alive);
    this.showSaved = hideSaved(model.get("saved"));
    this.build(el);
    this.connect();
  }

  build(el) {
    const root = document.createElement("div");
    this.screen = document.createElement("div");
    root.className = "allocframe-terminal";
    root.dataset.lmSuppressShortcuts = "true"; // keeps JupyterLab's shortcuts away
    this.screen.className = "allocframe-screen";
    root.append(this.screen, this.bar.element);
    el.append(root);
    const font = getComputedStyle(el).getPropertyValue("--jp-code-font-family").trim();
    this.term = root.allocframeTerminal = new Terminal({ ...OPTIONS, fontFamily: font || FONTS });
    this.fit = new FitAddon();
    this.term.loadAddon(this.fit);
    this.term.loadAddon(new UnicodeGraphemesAddon());
    harden(this.term);
  }

  connect() {
    const { term, screen, model } = this;
    term.attachCustomKeyEventHandler((event) => this.handlesKey(event));
    term.onData((text) => this.type(this.encoder.encode(text)));
    term.onBinary((text) => this.type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    term.onResize(({ rows, cols }) => this.send({ type: "resize", rows, cols }));
    screen.addEventListener("paste", (event) => plainPaste(event, term), true);
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    this.onStatus = () => {
      const open = isOpen(model) && this.alive.alive;
      term.options.disableStdin = !open;
      term.options.cursorBlink = open;
      this.bar.update();
    };
    model.on("msg:custom", this.onMessage);
    model.on("change:status", this.onStatus);
    this.onStatus();
    this.resizeObserver = new ResizeObserver(() => this.resize());
    this.resizeObserver.observe(screen);
  }

  send(message, buffers) {
    this.alive.send({ ...message, view: this.id }, buffers);
  }

  /**
   * Fit the terminal to its box. It is opened only when the box has a size: only then its rows and columns
   * are known.
   */
  resize() {
    if (!this.screen.isConnected || !this.screen.clientWidth || !this.screen.clientHeight) return;
    const first = !this.term.element;
    if (first) this.term.open(this.screen);
    this.fit.fit();
    if (first) this.attach();
  }

  attach() {
    this.next = null;
    this.send({ type: "attach", rows: this.term.rows, cols: this.term.cols });
  }

  // Input

  /**
   * Return whether xterm.js handles a key. It must not handle copying and pasting, which are the browser's, nor
   * Shift+Escape, which leaves the terminal.
   */
  handlesKey(event) {
    if (event.type !== "keydown") return true;
    if (event.key === "Escape" && event.shiftKey) {
      event.preventDefault();
      this.bar.focus();
      return false;
    }
    const modified = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const copies = key === "c" && modified && this.term.hasSelection();
    if (copies) setTimeout(() => this.term.clearSelection());
    const pastes = key === "v" && modified && !event.altKey;
    return !copies && !pastes;
  }

  type(bytes) {
    // While it draws a replay, xterm.js answers the queries in it again: that is not input.
    if (this.replaying || !isOpen(this.model) || !this.alive.alive) return;
    for (let at = 0; at < bytes.length; at += MAX_INPUT) {
      this.send({ type: "input", number: this.inputs++ }, [bytes.slice(at, at + MAX_INPUT)]);
    }
    if (bytes.length < MAX_INPUT) this.nudge();
  }

  nudge() {
    this.stopNudging();
    const send = () => this.send({ type: "ack", offset: this.acknowledged });
    this.nudges = NUDGE_DELAYS.map((delay) => setTimeout(send, delay));
  }

  stopNudging() {
    this.nudges.forEach(clearTimeout);
    this.nudges = [];
  }

  // Output

  receive(message, buffers) {
    const bytes = buffers?.length ? asBytes(buffers[0]) : new Uint8Array();
    if (message.type === "replay" && message.view === this.id) this.replay(message.end, bytes);
    if (message.type !== "output" || this.next === null) return;
    this.stopNudging();
    if (message.offset !== this.next) {
      this.attach(); // something is missing
      return;
    }
    this.next += bytes.length;
    this.pending.push([bytes, this.next]);
    const single = bytes.length < FLOOD_BYTES && this.pending.length === 1;
    const delay = single ? 0 : this.lastFlush + FLOOD_INTERVAL - performance.now();
    if (delay <= 0) this.flush();
    else this.flushTimer ??= setTimeout(() => this.flush(), delay);
  }

  /** Write the pending output to xterm.js. */
  flush() {
    clearTimeout(this.flushTimer);
    this.flushTimer = null;
    this.lastFlush = performance.now();
    for (const [bytes, end] of this.pending) this.term.write(bytes, () => this.acknowledge(end));
    this.pending = [];
  }

  acknowledge(end) {
    if (this.next === null || end - this.acknowledged < ACKNOWLEDGE_BYTES) return;
    this.acknowledged = end;
    this.send({ type: "ack", offset: end });
  }

  replay(end, bytes) {
    this.replaying = true;
    this.pending = []; // the replay contains it
    this.next = this.acknowledged = end;
    this.term.write(RESET); // as a write, so that it comes after the writes before it
    this.term.write(bytes, () => {
      this.replaying = false;
    });
  }

  dispose() {
    this.stopNudging();
    clearTimeout(this.flushTimer);
    this.send({ type: "detach" });
    this.resizeObserver.disconnect();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:status", this.onStatus);
    this.bar.dispose();
    this.alive.dispose();
    this.showSaved();
    this.term.dispose();
  }
}

function asBytes(buffer) {
  return buffer instanceof DataView
    ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new Uint8Array(buffer);
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.dispose();
}

export default { render };
