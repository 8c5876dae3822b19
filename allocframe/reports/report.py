"""Reports: facts of a snapshot as one file, HTML or Markdown."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .._utils.progress import Progress, shown
from .._utils.temporary import temporary_folder
from .._utils.text import visible
from ..client.audit_log import read_audit
from ..client.client import Client
from ..diagnosis.data_quality import require_one_cluster
from ..errors import ConfigError, MissingExtra
from ..snapshot.history import History
from ..snapshot.io import load
from ..snapshot.snapshot import Snapshot
from ..stats._source import pandas_table
from ..tables import HISTORY
from .archive_source import DAYS, similar_incidents, snapshot_for_days, snapshot_for_postmortem
from .as_html import render_html
from .as_markdown import render_markdown
from .document import PICTURES, Document, Paragraph, Part, People, Picture, walk
from .log_excerpts import REDACTED
from .people import Written, keep_copy, read_written, sealed
from .redact import redacted

if TYPE_CHECKING:
    from ..archive.archive import Archive

_KINDS = ("postmortem", "cluster")
_NEEDS = ("matplotlib", "scipy", "narwhals")


def report(
    source: Snapshot | Archive,
    kind: str = "postmortem",
    *,
    output: str | os.PathLike[str] | None = None,
    job: str | None = None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    days: int | None = None,
    redact: bool = False,
    client: Client | None = None,
    slo: float | str | None = None,
    star: Iterable[str] = (),
    update: str | os.PathLike[str] | None = None,
    audit: pd.DataFrame | str | os.PathLike[str] | None = None,
    usage: pd.DataFrame | None = None,
    progress: Progress = None,
) -> Path:
    """Write a report to send to people who were not there.

    Parameters
    ----------
    source : Snapshot or Archive
        From an archive, a postmortem includes allocations that Nomad has removed, and similar incidents; a
        cluster report has trends.
    kind : str
        "postmortem" (what happened) or "cluster" (how the cluster is doing).
    output : path
        ``NAME.html``, one file that works offline, or ``NAME.md``, with its pictures in ``NAME_files``. With
        `update` it may be left out: the same file is written.
    job : str, optional
        Only the allocations of this job.
    since, until : time, optional
        The window of a postmortem; from an archive it needs `since`.
    days : int, optional
        For a cluster report from an archive: how many days it covers, up to the last observation. It compares
        them with as many days before. By default 7.
    redact : bool
        Replace every name, address, ID and text of the cluster, equal ones by equal ones. Times, numbers and
        Nomad's own words stay.
    client : Client, optional
        The cluster, to add the log lines around failures to a postmortem, if the nodes still have them. A
        redacted postmortem leaves them out and says so. Needs read-logs.
    slo : float or str, optional
        An availability target such as ``"99.9%"``, to show how much of the error budget was used. A cluster
        report takes 99.9% by default.
    star : list of str, optional
        Keys of lines that the timeline of a postmortem must have. They stand in its folded table.
    update : path, optional
        A postmortem that was written before: what people wrote into its sections is kept, and so are its
        starred lines. If it was changed elsewhere, the old file is kept as ``NAME.bak``, with a warning.
    audit : pandas.DataFrame or path, optional
        What `read_audit` returned, or the path of an audit log; by default the log of this machine. A
        redacted postmortem leaves it out.
    usage : pandas.DataFrame, optional
        The ``samples`` of `Client.usage`, for the rightsizing of a cluster report.
    progress : bool or callable, optional
        Whether to show which of three steps is under way; by default after a second, on a terminal or in a
        notebook. A function is called with the number of steps that are done, and with three.

    Returns
    -------
    pathlib.Path
        The file. The same evidence and settings give the same file, byte for byte.

    Raises
    ------
    ConfigError
        A parameter is not valid, or there is nothing to report: no such job, no task event in the window, no
        archive.
    MissingExtra
        The extra ``report`` is not installed.

    Examples
    --------
    >>> af.report(snap, "postmortem", output="outage.html").name
    'outage.html'
    """
    target = _check_output(kind, update if output is None else output)
    settings = _Settings(
        source=source, kind=kind, since=since, until=until, days=days, redact=redact, client=client, slo=slo,
        star=list(star), update=update, audit=audit, usage=usage,
    )  # fmt: skip
    settings.check()
    written = Written() if update is None else read_written(Path(update))
    with shown(progress) as show, temporary_folder() as folder:
        show(0, 3, "report: evidence")
        snapshot, since = _choose_snapshot(settings)
        if job is not None:
            snapshot = _of_job(snapshot, job)
            usage = None if usage is None else usage[usage["job_id"].astype("str") == job]
        if redact:
            snapshot = load(redacted(snapshot, Path(folder) / "evidence.allocframe"), progress=False)
        show(1, 3, "report: sections and pictures")
        if kind == "cluster":
            document = _cluster(snapshot, since, slo, usage)
        else:
            stars = list(dict.fromkeys([*written.stars, *settings.star]))
            written = Written(written.sections, stars, written.form)
            document = _postmortem(settings, snapshot, stars, live=target.suffix == ".html")
        show(2, 3, "report: file")
        keep_copy(target, updates=update is not None and target.resolve() == Path(update).resolve())
        _write(document, written, target)
        show(3, 3, "report: file")
    return target


@dataclass(frozen=True)
class _Settings:
    """What `report` was asked for."""

    source: Snapshot | Archive
    kind: str
    since: pd.Timestamp | str | None
    until: pd.Timestamp | str | None
    days: int | None
    redact: bool
    client: Client | None
    slo: float | str | None
    star: list[str]
    update: str | os.PathLike[str] | None
    audit: pd.DataFrame | str | os.PathLike[str] | None
    usage: pd.DataFrame | None

    def check(self) -> None:
        """Raise ConfigError if settings exclude each other, MissingExtra if a package is missing."""
        if self.kind == "cluster":
            if self.since is not None or self.until is not None:
                raise ConfigError("a cluster report covers the whole snapshot; leave out since and until")
            if self.client is not None:
                raise ConfigError("log lines are for a postmortem; leave out client")
            if self.update is not None or self.star:
                raise ConfigError("update and star are for a postmortem; leave them out")
        elif self.usage is not None:
            raise ConfigError("usage is for a cluster report; leave it out")
        if self.days is not None and (self.kind != "cluster" or isinstance(self.source, Snapshot)):
            raise ConfigError("days is for a cluster report from an archive; leave it out")
        if self.redact and self.usage is not None:
            raise ConfigError("redact and usage exclude each other: measured use names jobs and tasks")
        if self.redact and self.update is not None:
            raise ConfigError(
                "redact and update exclude each other: what people wrote cannot be redacted; "
                "write a redacted report under another name"
            )
        if packages := missing_packages():
            raise MissingExtra(f"reports need {' and '.join(packages)}: pip install 'allocframe[report]'")

    def read_log(self) -> pd.DataFrame | None:
        """Return the audit log; none for a redacted report, since it holds names of people."""
        if self.redact:
            return None
        return self.audit if isinstance(self.audit, pd.DataFrame) else read_audit(self.audit)


def _postmortem(settings: _Settings, snapshot: Snapshot, stars: list[str], *, live: bool) -> Document:
    from .pictures import incident_picture
    from .postmortem import postmortem

    made = postmortem(
        snapshot,
        since=settings.since,
        until=settings.until,
        client=None if settings.redact else settings.client,
        slo=settings.slo,
        star=stars,
        audit=settings.read_log(),
    )
    document = made.document
    if not isinstance(settings.source, Snapshot) and not settings.redact:
        similar = similar_incidents(settings.source, made.incidents, made.facts.begin)
        document = made._with_similar(similar).document
    if settings.client is not None and settings.redact:
        document = document.with_blocks("evidence", [Part("Log lines", [Paragraph(REDACTED)])])
    return document.with_blocks("timeline", [incident_picture(made, live=live)])


def _cluster(
    snapshot: Snapshot,
    since: pd.Timestamp | str | None,
    slo: float | str | None,
    usage: pd.DataFrame | None,
) -> Document:
    from .cluster_sections import cluster_document

    return cluster_document(snapshot, since=since, slo="99.9%" if slo is None else slo, usage=usage)


def _write(document: Document, written: Written, target: Path) -> None:
    if target.suffix == ".html":
        body = render_html(document, written)
    else:
        folder = target.with_name(f"{target.stem}_files")
        # pictures of an earlier report are not of this one; what else lies there is somebody's own
        for name in PICTURES:
            (folder / f"{name}.png").unlink(missing_ok=True)
        pictures = [
            block
            for section in document.sections
            for block in walk(section.blocks)
            if isinstance(block, Picture)
        ]
        if pictures:
            folder.mkdir(exist_ok=True)
        for picture in pictures:
            (folder / f"{picture.name}.png").write_bytes(picture.png)
        body = render_markdown(document, written, folder.name)
    blocks = (block for section in document.sections for block in walk(section.blocks))
    body = sealed(body, [block.prompt for block in blocks if isinstance(block, People)])
    # a rename is atomic: nobody sees half a report
    partial = target.with_name(f".{target.name}.part")
    try:
        partial.touch(mode=0o600)  # a report holds names and messages
        partial.write_bytes(body.encode("utf-8"))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _choose_snapshot(settings: _Settings) -> tuple[Snapshot, pd.Timestamp | str | None]:
    """Return the snapshot of a report and the start of its window."""
    source, since = settings.source, settings.since
    if isinstance(source, Snapshot):
        require_one_cluster(source)
        return source, since
    if settings.kind == "cluster":
        return snapshot_for_days(source, DAYS if settings.days is None else settings.days)
    return snapshot_for_postmortem(source, since, settings.until), since


def _check_output(kind: str, output: str | os.PathLike[str] | None) -> Path:
    if kind not in _KINDS:
        raise ConfigError(f"kind must be {' or '.join(_KINDS)}, got {kind!r}")
    if output is None:
        raise ConfigError("output is missing: give NAME.html or NAME.md")
    target = Path(output)
    if target.suffix not in (".html", ".md"):
        raise ConfigError(f"output must end with .html or .md, got {target}")
    if not target.parent.is_dir():
        raise ConfigError(f"output {target}: there is no folder {target.parent}")
    return target


def _of_job(snapshot: Snapshot, job: str) -> Snapshot:
    names = pandas_table(snapshot, "allocations", "job_id")["job_id"].dropna()
    jobs = sorted(set(names.astype(str)))
    if job not in jobs:
        close = difflib.get_close_matches(job, jobs, n=3, cutoff=0.5) or jobs[:3]
        hint = f"; did you mean {', '.join(map(visible, close))}?" if close else ""
        raise ConfigError(f"this snapshot has no allocation of job {visible(job)!r}{hint}")
    part = snapshot.filter(job_id=job)
    if snapshot.history is not None:
        part.history = _history_of_job(snapshot.history, job)
    return part


def _history_of_job(history: History, job: str) -> History:
    """Return what changed about a job and about nodes, and nothing of other jobs."""
    frames = {name: getattr(history, name) for name in HISTORY}
    kept = {
        name: frame[(frame["job_id"].astype("str") == job) | frame["job_id"].isna()].reset_index(drop=True)
        if "job_id" in frame
        else frame
        for name, frame in frames.items()
    }
    return History(kept, history.notes)


def missing_packages() -> list[str]:
    """Return the packages that reports need and that are not installed."""
    return [name for name in _NEEDS if importlib.util.find_spec(name) is None]
