// The data of a timeline: columns of numbers, and where each lane's events and runs begin in them.

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array };
const TYPES = { kind: "uint8", end: "uint8", type: "uint16" };

/** Decode little-endian integers in base64. */
export function unpack(text, kind = "uint32") {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new ARRAYS[kind](bytes.buffer);
}

/** Return the data with its columns as arrays. */
export function decode(data) {
  const lanes = { ...data.lanes, job: unpack(data.lanes.job) };
  const events = unpackColumns(data.events);
  const runs = unpackColumns(data.runs);
  const count = lanes.name.length;
  return {
    ...data,
    lanes,
    events: { ...events, first: firstOfEach(events.lane, count) },
    runs: { ...runs, first: firstOfEach(runs.lane, count) },
    incidents: data.incidents.map((incident) => ({ ...incident, lanes: [...unpack(incident.lanes)] })),
  };
}

function unpackColumns(columns) {
  const entries = Object.entries(columns);
  return Object.fromEntries(
    entries.map(([name, value]) => [name, typeof value === "string" ? unpack(value, TYPES[name]) : value]),
  );
}

/** Return where the rows of each lane begin, in rows that are sorted by lane; the last entry is their number. */
function firstOfEach(lane, count) {
  const first = new Uint32Array(count + 1);
  for (const number of lane) first[number + 1]++;
  for (let n = 0; n < count; n++) first[n + 1] += first[n];
  return first;
}

/** Return the first position in sorted[from, to) whose value is at least `value`. */
export function lowerBound(sorted, value, from, to) {
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (sorted[middle] < value) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Call `use` with the position of each event of a lane within [begin, end]. */
export function eachEvent(data, lane, begin, end, use) {
  const { at, first } = data.events;
  const last = first[lane + 1];
  for (let n = lowerBound(at, begin, first[lane], last); n < last && at[n] <= end; n++) use(n);
}
