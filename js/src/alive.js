// Tells whether the kernel behind a widget is still there. After a restart, what the page shows is only a
// picture, and messages to it throw errors or vanish.

const PATIENCE = 3000; // milliseconds for an answer, before the kernel counts as gone

export class Alive {
  /** `changed` is called with whether the kernel is there. It must answer {type: "ping"} with "pong". */
  constructor(model, changed) {
    this.model = model;
    this.changed = changed;
    this.alive = true;
    this.number = 0;
    this.onComm = () => this.ask();
    this.onMessage = () => this.set(true);
    // JupyterLab says so when the connection to the kernel changes, for the worse or for the better.
    model.on("comm_live_update", this.onComm);
    model.on("msg:custom", this.onMessage);
    model.on("change", this.onMessage);
  }

  ask() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.set(false), PATIENCE);
    this.send({ type: "ping", number: this.number++ });
  }

  set(alive) {
    if (alive) clearTimeout(this.timer);
    if (alive === this.alive) return;
    this.alive = alive;
    this.changed(alive);
  }

  /** Send a message; one that cannot be sent means that the kernel is gone. */
  send(message, buffers) {
    try {
      this.model.send(message, undefined, buffers);
    } catch {
      this.set(false);
    }
  }

  dispose() {
    clearTimeout(this.timer);
    this.model.off("comm_live_update", this.onComm);
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change", this.onMessage);
  }
}

export const DEAD = "The kernel was restarted or has ended: run the cell again.";

/** Hide the copy of the widget that is there for saved notebooks. Return a function that shows it again. */
export function hideSaved(name) {
  const style = document.createElement("style");
  style.textContent = `.allocframe-saved-${CSS.escape(name)} { display: none; }`;
  document.head.append(style);
  return () => style.remove();
}
