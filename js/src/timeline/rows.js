// The rows of the picture: changes, then incidents, their jobs, and the instances of those. Rows can be folded.

const FEW_LANES = 10;
const FEW_MINOR = 3;

/** Build the tree of all rows. */
export function buildTree(data) {
  const roots = [{ id: "changes", level: 1, type: "changes", label: "Changes", lanes: [], children: [] }];
  const major = data.incidents.filter((incident) => incident.severity !== "info");
  const minor = data.incidents.filter((incident) => incident.severity === "info");
  major.forEach((incident) => roots.push(incidentRow(data, incident, incident.title, true)));
  if (minor.length > FEW_MINOR) {
    const lanes = [...new Set(minor.flatMap((incident) => incident.lanes))].sort((a, b) => a - b);
    const together = { severity: "info", lanes, title: "minor", all: minor };
    roots.push(incidentRow(data, together, `${minor.length} minor incidents`, false));
  } else {
    minor.forEach((incident) => roots.push(incidentRow(data, incident, incident.title, false)));
  }
  const told = new Set(data.incidents.flatMap((incident) => incident.lanes));
  const others = [...data.lanes.name.keys()].filter((lane) => !told.has(lane));
  if (others.length) {
    const label = told.size ? "Instances in no incident" : "All instances";
    roots.push(groupRow(data, "others", label, others, !told.size));
  }
  return roots;
}

function incidentRow(data, incident, label, open) {
  const row = groupRow(data, `incident ${label} ${incident.began}`, label, incident.lanes, open);
  return Object.assign(row, { type: "incident", incident });
}

function groupRow(data, id, label, lanes, open) {
  const byJob = new Map();
  for (const lane of lanes) {
    const job = data.lanes.job[lane];
    if (!byJob.has(job)) byJob.set(job, []);
    byJob.get(job).push(lane);
  }
  const children = [...byJob].map(([job, its]) => jobRow(data, id, job, its, open));
  return { id, level: 1, type: "group", label, lanes, children, open };
}

function jobRow(data, parent, job, lanes, open) {
  const id = `${parent} job ${job}`;
  const name = data.jobs.name[job];
  const children = lanes.map((lane) => ({
    id: `${id} lane ${lane}`, level: 3, type: "lane", label: laneLabel(data.lanes.name[lane], name), lane, job,
    lanes: [lane], children: [],
  }));
  const namespace = data.jobs.namespace[job];
  const label = namespace === "default" ? name : `${namespace}/${name}`;
  return { id, level: 2, type: "job", label, job, lanes, children, open: open && lanes.length <= FEW_LANES };
}

/** Leave the job's name out of its instances' names: `web.app[0] server` is `app[0] server`. */
function laneLabel(name, job) {
  const short = job.replace(/^.*: /, "");
  return name.startsWith(`${short}.`) ? name.slice(short.length + 1) : name;
}

/** Return the rows that are shown, top to bottom: those below an open row, if they match every word. */
export function visibleRows(data, roots, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = [];
  const add = (row, above) => {
    const own = `${above} ${row.label} ${row.type === "lane" ? data.lanes.name[row.lane] : ""}`.toLowerCase();
    const hit = words.every((word) => own.includes(word));
    const at = shown.length;
    shown.push(row);
    // A match below opens its row, so that it can be seen.
    const inside = (words.length && !hit) || row.open;
    let below = 0;
    if (inside) for (const child of row.children) below += add(child, own);
    if (hit || below || row.type === "changes") return 1;
    shown.length = at;
    return 0;
  };
  roots.forEach((row) => add(row, ""));
  return shown;
}
