// The overview: failures over the whole time, and the window that is shown, which can be moved and stretched.

const HEIGHT = 40;
const EDGE = 7; // pixels from an edge of the window within which a drag stretches it

export class Overview {
  constructor(data, view, changed) {
    this.data = data;
    this.view = view;
    this.changed = changed;
    this.element = document.createElement("canvas");
    this.element.className = "af-tl-overview";
    this.element.setAttribute("aria-hidden", "true"); // keys do the same on the rows
    this.element.addEventListener("pointerdown", (event) => this.start(event));
    this.element.addEventListener("pointermove", (event) => this.move(event));
    this.element.addEventListener("pointerup", () => (this.drag = null));
    this.element.addEventListener("pointercancel", () => (this.drag = null));
  }

  resize(width) {
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.element.width = Math.round(width * ratio);
    this.element.height = HEIGHT * ratio;
    this.element.style.width = `${width}px`;
    this.element.style.height = `${HEIGHT}px`;
    this.still = null;
  }

  x(number) {
    const [first, last] = this.view.whole;
    return ((number - first) / (last - first)) * this.width;
  }

  number(x) {
    const [first, last] = this.view.whole;
    return first + (x / this.width) * (last - first);
  }

  draw(theme) {
    const context = this.element.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    if (this.still?.theme !== theme) this.still = { theme, image: this.drawStill(theme, ratio) };
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.still.image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [left, right] = [this.x(this.view.begin), this.x(this.view.end)];
    context.fillStyle = theme.shade;
    context.fillRect(left, 0, Math.max(right - left, 2), HEIGHT);
    context.fillStyle = theme.text;
    context.fillRect(left - 1, 0, 2, HEIGHT);
    context.fillRect(right - 1, 0, 2, HEIGHT);
  }

  /** Draw what does not change: the failures of each kind, by their number, and the changes. */
  drawStill(theme, ratio) {
    const image = document.createElement("canvas");
    image.width = this.element.width;
    image.height = this.element.height;
    const context = image.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = theme.ground;
    context.fillRect(0, 0, this.width, HEIGHT);
    const bins = Math.max(Math.floor(this.width / 3), 1);
    const kinds = this.data.kinds.length + 1;
    const counts = new Uint32Array(bins * kinds);
    const { at, kind } = this.data.events;
    const scale = bins / this.width;
    for (let n = 0; n < at.length; n++) if (kind[n]) counts[Math.floor(this.x(at[n]) * scale) * kinds + kind[n]]++;
    let most = 1;
    const totals = Array.from({ length: bins }, (_, bin) => {
      let total = 0;
      for (let k = 1; k < kinds; k++) total += counts[bin * kinds + k];
      most = Math.max(most, total);
      return total;
    });
    totals.forEach((total, bin) => {
      let top = HEIGHT - 1;
      const high = total ? 3 + ((HEIGHT - 10) * Math.log2(1 + total)) / Math.log2(1 + most) : 0;
      for (let k = 1; k < kinds; k++) {
        const part = total ? (high * counts[bin * kinds + k]) / total : 0;
        context.fillStyle = theme.kinds[k];
        context.fillRect(bin / scale, (top -= part), 1 / scale - 0.5, part);
      }
    });
    context.fillStyle = theme.change;
    this.data.changes.forEach((change) => context.fillRect(this.x(change.at), 0, 1, 5));
    context.fillStyle = theme.line;
    context.fillRect(0, HEIGHT - 1, this.width, 1);
    return image;
  }

  start(event) {
    const x = event.offsetX;
    const [left, right] = [this.x(this.view.begin), this.x(this.view.end)];
    this.element.setPointerCapture(event.pointerId);
    if (Math.abs(x - left) <= EDGE && x < (left + right) / 2) this.drag = { type: "begin" };
    else if (Math.abs(x - right) <= EDGE) this.drag = { type: "end" };
    else if (x > left && x < right) this.drag = { type: "move", grip: this.number(x) - this.view.begin };
    else this.drag = { type: "new", from: this.number(x) };
    this.move(event);
  }

  move(event) {
    const x = Math.min(Math.max(event.offsetX, 0), this.width);
    const { view, drag } = this;
    if (!drag) return;
    const at = this.number(x);
    if (drag.type === "begin") view.show(Math.min(at, view.end - 1), view.end);
    else if (drag.type === "end") view.show(view.begin, Math.max(at, view.begin + 1));
    else if (drag.type === "move") view.show(at - drag.grip, at - drag.grip + view.length);
    else if (Math.abs(this.x(drag.from) - x) > 3) view.show(Math.min(drag.from, at), Math.max(drag.from, at));
    else view.show(at - view.length / 2, at + view.length / 2);
    this.changed();
  }
}
