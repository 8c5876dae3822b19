// The line under the screen: what the session is, how it stands, and buttons to begin it again or end it.

const COLOURS = { connecting: "wait", connected: "live", ended: "over", refused: "bad", lost: "bad", closed: "over" };

export function isOpen(model) {
  return ["connecting", "connected"].includes(model.get("status"));
}

export function statusBar(model) {
  const element = document.createElement("div");
  const dot = document.createElement("span");
  const text = document.createElement("span");
  const again = button("Reconnect", "Begin a new session with the same command");
  const end = button("Close", "Send Ctrl-C and close the session");
  element.className = "allocframe-status";
  text.setAttribute("role", "status");
  element.append(dot, text, again, end);

  const update = () => {
    const status = model.get("status");
    const open = isOpen(model);
    dot.className = `allocframe-dot allocframe-${COLOURS[status] ?? "wait"}`;
    text.textContent = `${model.get("title")} · ${model.get("message")}`;
    text.title = "Shift+Escape leaves the terminal";
    again.disabled = open;
    end.disabled = !open;
  };
  const names = "change:status change:message change:title";
  again.addEventListener("click", () => model.send({ type: "reconnect" }));
  end.addEventListener("click", () => model.send({ type: "close" }));
  model.on(names, update);
  update();
  return {
    element,
    focus: () => (again.disabled ? end : again).focus(),
    dispose: () => model.off(names, update),
  };
}

function button(label, title) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.title = title;
  return made;
}
