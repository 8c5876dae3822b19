"""The later sections of a postmortem: causes, what made it worse or better, and the evidence."""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnosis.incident import Hypothesis, Incident
from ..stats.explain import newest_failures
from .document import Block, Bullets, Command, Fold, Paragraph, Part, Section, Strong, Table, Text
from .factors import contributing_factors, lucky_breaks
from .log_excerpts import NOT_ASKED, LogLines
from .postmortem import Facts
from .settle import settling_commands

_MOST_ROWS = 50


def describe_causes(facts: Facts) -> Iterator[Block]:
    """Yield each incident with its causes, and what would settle them."""
    if not facts.incidents:
        yield Paragraph("No rule found an incident in this window.")
    told: dict[str, str] = {}
    for number, incident in enumerate(facts.incidents):
        blocks = list(_cause(facts, number + 1, incident, told))
        yield Part(f"{number + 1}. {incident.title}", blocks, f"incident-{number + 1}", incident.severity)


def _cause(facts: Facts, number: int, incident: Incident, told: dict[str, str]) -> Iterator[Block]:
    best, *others = incident.hypotheses or [incident.cause]
    if best.kind != incident.cause.kind:
        best, others = (
            incident.cause,
            [each for each in incident.hypotheses if each.kind != incident.cause.kind],
        )
    key = f"{best.kind} {best.mechanism} {best.subject}"
    if key in told and best.subject:
        yield Paragraph(f"Same cause as: {told[key]}.")
    else:
        told[key] = f"{number}. {incident.title}"
        yield from _hypothesis(best, "Cause")
    for hypothesis in others:
        head = "How it fails" if hypothesis.confidence == "certain" else "Also possible"
        # its numbers are of one job, and those of the incident are of all
        of_one = (
            hypothesis.subject.get("job_id") if len(incident.jobs) > 1 and head == "How it fails" else None
        )
        yield from _hypothesis(hypothesis, f"{head}, as seen in {of_one}" if of_one else head)
    commands = settling_commands(incident, facts.instances)
    settle = " This would settle it:" if commands else ""
    yield Paragraph((Strong("Not known:"), f" {incident.not_known}.{settle}"))
    if commands:
        yield Command("\n".join(commands))


def _hypothesis(hypothesis: Hypothesis, head: str) -> Iterator[Block]:
    sure = "" if hypothesis.kind == "unknown" or head == "Also possible" else f" ({hypothesis.confidence})"
    yield Paragraph((Strong(f"{head}{sure}:"), f" {hypothesis.text}."))
    evidence: list[Text] = [("For: ", each.text) for each in hypothesis.supporting]
    evidence += [("Against: ", each.text) for each in hypothesis.contradicting]
    if evidence:
        yield Bullets(evidence)


def describe_factors(facts: Facts) -> Iterator[Block]:
    """Yield what made the incidents worse."""
    found = contributing_factors(facts.incidents, facts.jobs, facts.instances, facts.changes)
    yield Bullets(list(found)) if found else Paragraph("The data shows none.")


def describe_luck(facts: Facts) -> Iterator[Block]:
    """Yield what went well."""
    found = lucky_breaks(facts.incidents, facts.jobs, facts.instances, facts.changes)
    yield Bullets(list(found)) if found else Paragraph("The data shows nothing of the kind.")


def similar_section(facts: Facts) -> Section:
    """Return the section on similar incidents, which needs an archive."""
    return Section("similar", "Similar incidents", list(_similar(facts)))


def _similar(facts: Facts) -> Iterator[Block]:
    if facts.similar is None:
        yield Paragraph(
            "Not looked for. Earlier incidents are known only from an archive (--archive DIR), "
            "and a redacted report leaves them out."
        )
    elif not facts.similar:
        yield Paragraph("None in the archive.")
    else:
        columns = ["when (UTC)", "what", "how long", "how it ended", "alike in"]
        rows: list[list[Text]] = [
            [f"{each['at']:%Y-%m-%d %H:%M}", each["title"], each["length"], each["ended"], each["alike"]]
            for each in facts.similar
        ]
        yield Table(columns, rows)


# Evidence


def describe_evidence(facts: Facts, logs: LogLines) -> Iterator[Block]:
    """Yield what is covered and missing, and the tables behind it all."""
    for head, texts in facts.diagnosis.data_quality.points:
        yield Part(head, [Bullets(list(texts))])
    if logs.note != NOT_ASKED:
        yield Part("Log lines", list(logs.blocks()))
    findings = facts.diagnosis.findings.to_frame()
    if len(findings):
        yield Fold(f"All findings ({len(findings):,})", [Table.of(findings, _MOST_ROWS)])
    failed = newest_failures(facts.snapshot, facts.since, facts.until, _MOST_ROWS)
    if failed.failures:
        table = Table.of(failed.rows[_OF_FAILURES], _MOST_ROWS, among=failed.failures)
        yield Fold(f"Failures whose events are on record ({failed.failures:,})", [table])
    if facts.snapshot.history is not None:
        rows = facts.snapshot.history.changes
        rows = rows[rows["at"].between(facts.since, facts.until)]
        kept = ["at", "kind", "namespace", "job_id", "version_after", "node_name", "alloc_id"]
        if len(rows):
            yield Fold(f"The change ledger ({len(rows):,} rows)", [Table.of(rows[kept], 4 * _MOST_ROWS)])


_OF_FAILURES = [
    "time", "namespace", "job_id", "job_version", "task", "node_name", "alloc_id", "cause", "message",
]  # fmt: skip
