// The part of the time that is shown.

const SHORTEST = 10; // milliseconds

export class TimeWindow {
  constructor(data) {
    this.data = data;
    this.whole = [-data.span * 0.01, data.span * 1.01];
    [this.begin, this.end] = data.open;
  }

  get length() {
    return this.end - this.begin;
  }

  /** Show [begin, end], kept within the whole time and not shorter than can be told apart. */
  show(begin, end) {
    const [first, last] = this.whole;
    const shortest = Math.max(SHORTEST / this.data.unit, 1);
    const length = Math.min(Math.max(end - begin, shortest), last - first);
    const from = Math.min(Math.max(begin, first), last - length);
    [this.begin, this.end] = [from, from + length];
  }

  pan(by) {
    this.show(this.begin + by, this.end + by);
  }

  /** Zoom by a factor; `at` keeps its place. */
  zoom(factor, at = (this.begin + this.end) / 2) {
    this.show(at - (at - this.begin) * factor, at + (this.end - at) * factor);
  }
}

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5,
  108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 12096e5, 24192e5,
]; // milliseconds, as clocks and calendars count
const DAY = 864e5;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Return the ticks of an axis as [number, label]; the first of each day has its date. */
export function ticks(data, begin, end, most) {
  const [from, to] = [begin, end].map((number) => data.base + number * data.unit);
  const step = STEPS.find((length) => (to - from) / length <= most) ?? STEPS.at(-1);
  const marks = [];
  for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
    const midnight = time % DAY === 0;
    const label = midnight || step >= DAY ? dayOf(time) : clockOf(time, step);
    marks.push([(time - data.base) / data.unit, label]);
  }
  return marks;
}

export function dayOf(time) {
  const date = new Date(time);
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}

function clockOf(time, step) {
  const text = new Date(time).toISOString();
  return step >= 6e4 ? text.slice(11, 16) : step >= 1e3 ? text.slice(11, 19) : text.slice(14, 23);
}

/** Return a time as text: the day, and the time to the second. */
export function fullTime(data, number) {
  const time = data.base + number * data.unit;
  return `${dayOf(time)} ${new Date(time).toISOString().slice(11, 19)}`;
}

/** Return a length of time in words. */
export function duration(data, number) {
  const seconds = (number * data.unit) / 1000;
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}
