// One view of a terminal: draws what the kernel sends, and sends back what is typed.
// Output is numbered by byte, so that a view sees when something is missing and asks for it again.

import { FitAddon } from "@xterm/addon-fit";
import { UnicodeGraphemesAddon } from "@xterm/addon-unicode-graphemes";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { harden, plainPaste } from "./harden.js";
import { isOpen, statusBar } from "./status.js";
import "./terminal.css";

const ACKNOWLEDGE_EVERY = 64 << 10;
const INPUT_PIECE = 16 << 10;
const NUDGES = [4, 8, 16, 32];
// Drawing costs more than parsing. More than this at once is no typing, and is handed to xterm.js ten times a second.
const FLOOD = 8 << 10;
const FLOOD_PAUSE = 100;
const RESET = "\x1bc";
const OPTIONS = {
  allowProposedApi: true,
  cursorBlink: true,
  fontSize: 13,
  scrollback: 5000,
  theme: { background: "#101418", foreground: "#e6e6e6" },
};

function render({ model, el }) {
  const view = crypto.randomUUID();
  const term = new Terminal({ ...OPTIONS, fontFamily: resolvedFont(el) });
  const fit = new FitAddon();
  const encoder = new TextEncoder();
  const root = document.createElement("div");
  const screen = document.createElement("div");
  root.className = "allocframe-terminal";
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own shortcuts stay away
  screen.className = "allocframe-screen";
  const bar = statusBar(model);
  root.append(screen, bar.element);
  el.append(root);

  let opened = false;
  let next = null; // the offset of the byte that comes next; null until the first replay
  let acknowledged = 0;
  let replaying = false;
  let number = 0; // of the next piece of input

  const send = (message, buffers) => model.send({ ...message, view }, undefined, buffers);
  const size = () => ({ rows: term.rows, cols: term.cols });
  const attach = () => {
    next = null;
    send({ type: "attach", ...size() });
  };

  term.loadAddon(fit);
  term.loadAddon(new UnicodeGraphemesAddon());
  harden(term);
  term.attachCustomKeyEventHandler((event) => leavesToBrowser(event, term, bar));

  const typed = (bytes) => {
    if (replaying || !isOpen(model)) return; // answers to old questions are no input
    for (let at = 0; at < bytes.length; at += INPUT_PIECE) {
      send({ type: "input", number: number++ }, [bytes.slice(at, at + INPUT_PIECE)]);
    }
    if (bytes.length < INPUT_PIECE) nudge();
  };

  // Jupyter's server holds small messages back until the browser has confirmed the one before (Nagle's algorithm), and a browser
  // waits some 40 ms with that unless it has something to send. So it sends a little something until the echo is there.
  let nudges = [];
  const still = () => {
    nudges.forEach(clearTimeout);
    nudges = [];
  };
  const nudge = () => {
    still();
    nudges = NUDGES.map((pause) => setTimeout(() => send({ type: "ack", offset: acknowledged }), pause));
  };
  term.onData((text) => typed(encoder.encode(text)));
  term.onBinary((text) => typed(Uint8Array.from(text, (character) => character.charCodeAt(0))));
  term.onResize((now) => send({ type: "resize", rows: now.rows, cols: now.cols }));
  screen.addEventListener("paste", (event) => plainPaste(event, term), true);

  const parsed = (end) => {
    if (next !== null && end - acknowledged >= ACKNOWLEDGE_EVERY) {
      acknowledged = end;
      send({ type: "ack", offset: end });
    }
  };

  let waiting = [];
  let flush = null;
  let drawn = 0;
  const draw = (bytes, end) => {
    waiting.push([bytes, end]);
    const pause = bytes.length < FLOOD && waiting.length === 1 ? 0 : drawn + FLOOD_PAUSE - performance.now();
    if (pause <= 0) write();
    else flush ??= setTimeout(write, pause);
  };
  const write = () => {
    clearTimeout(flush);
    flush = null;
    drawn = performance.now();
    for (const [bytes, end] of waiting) term.write(bytes, () => parsed(end));
    waiting = [];
  };

  const replay = (message, bytes) => {
    replaying = true;
    waiting = []; // the replay has it
    next = acknowledged = message.end;
    term.write(RESET); // in its place among the writes that are still waiting
    term.write(bytes, () => {
      replaying = false;
    });
  };

  const onMessage = (message, buffers) => {
    const bytes = buffers?.length ? asBytes(buffers[0]) : new Uint8Array();
    if (message.type === "replay" && message.view === view) return replay(message, bytes);
    if (message.type !== "output" || next === null) return undefined;
    still();
    if (message.offset !== next) return attach();
    next += bytes.length;
    return draw(bytes, next);
  };
  model.on("msg:custom", onMessage);

  const onStatus = () => {
    term.options.disableStdin = !isOpen(model);
    term.options.cursorBlink = !term.options.disableStdin;
  };
  model.on("change:status", onStatus);
  onStatus();

  const shown = new ResizeObserver(() => {
    if (!root.isConnected || !screen.clientWidth || !screen.clientHeight) return;
    if (!opened) {
      opened = true;
      term.open(screen);
      fit.fit();
      attach();
    } else {
      fit.fit();
    }
  });
  shown.observe(screen);
  root.allocframeTerminal = term;

  return () => {
    still();
    clearTimeout(flush);
    send({ type: "detach" });
    shown.disconnect();
    model.off("msg:custom", onMessage);
    model.off("change:status", onStatus);
    bar.dispose();
    term.dispose();
  };
}

/** Tell xterm.js to leave a key alone: copying a selection, and Shift+Escape, which leaves the terminal. */
function leavesToBrowser(event, term, bar) {
  if (event.type !== "keydown") return true;
  if (event.key === "Escape" && event.shiftKey) {
    event.preventDefault();
    bar.focus();
    return false;
  }
  const copies = event.key.toLowerCase() === "c" && (event.ctrlKey || event.metaKey) && term.hasSelection();
  if (copies) setTimeout(() => term.clearSelection());
  return !copies;
}

function resolvedFont(el) {
  const named = getComputedStyle(el).getPropertyValue("--jp-code-font-family").trim();
  return named || "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
}

function asBytes(buffer) {
  return buffer instanceof DataView
    ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new Uint8Array(buffer);
}

export default { render };
