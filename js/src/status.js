// The line below the screen: the title and status of the session, and buttons to restart or end it.

import { DEAD } from "./alive.js";

const COLOURS = {
  connecting: "wait",
  connected: "live",
  ended: "over",
  refused: "bad",
  lost: "bad",
  closed: "over",
};

export function isOpen(model) {
  return ["connecting", "connected"].includes(model.get("status"));
}

export function statusBar(model, alive) {
  const element = document.createElement("div");
  const dot = document.createElement("span");
  const text = document.createElement("span");
  const reconnect = button("Reconnect", "Start a new session with the same command");
  const close = button("Close", "Send Ctrl-C and close the session");
  element.className = "allocframe-status";
  text.setAttribute("role", "status");
  element.append(dot, text, reconnect, close);

  const update = () => {
    const status = model.get("status");
    const dead = !alive.alive;
    const open = isOpen(model);
    dot.className = `allocframe-dot allocframe-${dead ? "bad" : COLOURS[status] ?? "wait"}`;
    text.textContent = `${model.get("title")} · ${dead ? DEAD : model.get("message")}`;
    text.title = "Shift+Escape leaves the terminal";
    reconnect.disabled = dead || open;
    close.disabled = dead || !open;
  };
  const events = "change:status change:message change:title";
  reconnect.addEventListener("click", () => alive.send({ type: "reconnect" }));
  close.addEventListener("click", () => alive.send({ type: "close" }));
  model.on(events, update);
  update();
  return {
    element,
    update,
    focus: () => (reconnect.disabled ? close : reconnect).focus(),
    dispose: () => model.off(events, update),
  };
}

function button(label, title) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  element.title = title;
  return element;
}
