// A view of a terminal: draws what the kernel sends, and sends back what is typed.
// Output is numbered by byte, so that a view sees when something is missing and asks for it again; input is numbered by piece,
// since a kernel hears messages on two threads.

import { FitAddon } from "@xterm/addon-fit";
import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { harden, plainPaste } from "./harden.js";
import { isOpen, statusBar } from "./status.js";
import "./terminal.css";

const ACKNOWLEDGE_EVERY = 64 << 10;
const INPUT_PIECE = 16 << 10;
const RESET = "\x1bc";

// Jupyter's server holds small messages back until the browser has confirmed the one before (Nagle's algorithm), and a browser
// waits some 40 ms with that unless it has something to send. So it sends a little something until the echo is there.
const NUDGES = [4, 8, 16, 32];

// Drawing costs more than parsing. More than this at once is no typing, and is handed to xterm.js ten times a second.
const FLOOD = 8 << 10;
const FLOOD_PAUSE = 100;

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
    this.next = null; // the offset of the byte that comes next; null until the first replay
    this.acknowledged = 0;
    this.replaying = false;
    this.typed = 0; // pieces of input so far
    this.nudges = [];
    this.waiting = []; // output that is not yet handed to xterm.js, and where it ends
    this.flush = null;
    this.drawn = 0;
    this.encoder = new TextEncoder();
    this.bar = statusBar(model);
    this.build(el);
    this.connect();
  }

  build(el) {
    const root = document.createElement("div");
    this.screen = document.createElement("div");
    root.className = "allocframe-terminal";
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own shortcuts stay away
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
    term.attachCustomKeyEventHandler((event) => this.takesKey(event));
    term.onData((text) => this.type(this.encoder.encode(text)));
    term.onBinary((text) => this.type(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    term.onResize(({ rows, cols }) => this.send({ type: "resize", rows, cols }));
    screen.addEventListener("paste", (event) => plainPaste(event, term), true);
    this.onMessage = (message, buffers) => this.received(message, buffers);
    this.onStatus = () => {
      term.options.disableStdin = !isOpen(model);
      term.options.cursorBlink = isOpen(model);
    };
    model.on("msg:custom", this.onMessage);
    model.on("change:status", this.onStatus);
    this.onStatus();
    this.shown = new ResizeObserver(() => this.sized());
    this.shown.observe(screen);
  }

  send(message, buffers) {
    this.model.send({ ...message, view: this.id }, undefined, buffers);
  }

  /** Open once there is room, since only then it is known how many characters fit. */
  sized() {
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

  // What is typed

  /** Tell xterm.js to leave a key alone: copying a selection, and Shift+Escape, which leaves the terminal. */
  takesKey(event) {
    if (event.type !== "keydown") return true;
    if (event.key === "Escape" && event.shiftKey) {
      event.preventDefault();
      this.bar.focus();
      return false;
    }
    const copies = event.key.toLowerCase() === "c" && (event.ctrlKey || event.metaKey) && this.term.hasSelection();
    if (copies) setTimeout(() => this.term.clearSelection());
    return !copies;
  }

  type(bytes) {
    if (this.replaying || !isOpen(this.model)) return; // answers to old questions are no input
    for (let at = 0; at < bytes.length; at += INPUT_PIECE) {
      this.send({ type: "input", number: this.typed++ }, [bytes.slice(at, at + INPUT_PIECE)]);
    }
    if (bytes.length < INPUT_PIECE) this.nudge();
  }

  nudge() {
    this.still();
    const send = () => this.send({ type: "ack", offset: this.acknowledged });
    this.nudges = NUDGES.map((pause) => setTimeout(send, pause));
  }

  still() {
    this.nudges.forEach(clearTimeout);
    this.nudges = [];
  }

  // What comes

  received(message, buffers) {
    const bytes = buffers?.length ? asBytes(buffers[0]) : new Uint8Array();
    if (message.type === "replay" && message.view === this.id) this.replay(message.end, bytes);
    if (message.type !== "output" || this.next === null) return;
    this.still();
    if (message.offset !== this.next) {
      this.attach();
      return;
    }
    this.next += bytes.length;
    this.waiting.push([bytes, this.next]);
    const alone = bytes.length < FLOOD && this.waiting.length === 1;
    const pause = alone ? 0 : this.drawn + FLOOD_PAUSE - performance.now();
    if (pause <= 0) this.draw();
    else this.flush ??= setTimeout(() => this.draw(), pause);
  }

  draw() {
    clearTimeout(this.flush);
    this.flush = null;
    this.drawn = performance.now();
    for (const [bytes, end] of this.waiting) this.term.write(bytes, () => this.parsed(end));
    this.waiting = [];
  }

  parsed(end) {
    if (this.next === null || end - this.acknowledged < ACKNOWLEDGE_EVERY) return;
    this.acknowledged = end;
    this.send({ type: "ack", offset: end });
  }

  replay(end, bytes) {
    this.replaying = true;
    this.waiting = []; // the replay has it
    this.next = this.acknowledged = end;
    this.term.write(RESET); // in its place among the writes that are not done yet
    this.term.write(bytes, () => {
      this.replaying = false;
    });
  }

  dispose() {
    this.still();
    clearTimeout(this.flush);
    this.send({ type: "detach" });
    this.shown.disconnect();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change:status", this.onStatus);
    this.bar.dispose();
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
