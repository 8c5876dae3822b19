"""What people write into a postmortem survives when it is made again, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run

import allocframe as af
from allocframe.reports.people import read_written

EVIDENCE = Path(__file__).parents[1] / "data" / "incidents" / "nomad-1.3.1-badversion.allocframe"
MINE = "We were *asleep*.  \r\n\r\n<b>Kim</b> woke up: ümlaut, `code`, trailing spaces   \n"


@pytest.fixture(scope="module")
def snap() -> af.Snapshot:
    return af.load(EVIDENCE)


def write_into(page: Path, key: str, text: str) -> None:
    whole = page.read_bytes().decode()
    begin, end = f"<!-- people: {key} -->\n", f"<!-- end of people: {key} -->"
    head, _, rest = whole.partition(begin)
    page.write_bytes(f"{head}{begin}{text}{end}{rest.partition(end)[2]}".encode())


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_an_update_keeps_what_people_wrote_and_replaces_the_rest(
    suffix: str, snap: af.Snapshot, tmp_path: Path
) -> None:
    page = af.report(snap, output=tmp_path / f"outage{suffix}")
    before = page.read_bytes()
    write_into(page, "detection", MINE)
    write_into(page, "author", "Kim; final.\n")
    page.write_bytes(page.read_bytes().replace(b"Contributing factors", b"Somebody changed this"))
    with pytest.warns(UserWarning, match="changed outside its sections for people.*kept as outage"):
        again = af.report(snap, update=page)
    assert b"Somebody changed this" in (tmp_path / f"outage{suffix}.bak").read_bytes()
    assert again == page
    after = page.read_bytes()
    assert MINE.encode() in after
    assert b"Somebody changed this" not in after
    assert read_written(page).sections["author"] == "Kim; final.\n"
    third = af.report(snap, update=page).read_bytes()
    assert third == after, "once more changes nothing"
    assert not (tmp_path / f"outage{suffix}.bak2").exists()
    assert len(after) > len(before) - 200


def test_what_is_written_in_markdown_is_shown_as_it_was_typed_in_html(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    page = af.report(snap, output=tmp_path / "outage.md")
    write_into(page, "lessons", "1. <script>alert(1)</script> *never* on Friday\n")
    sent = af.report(snap, output=tmp_path / "outage.html", update=page).read_text()
    assert "1. &lt;script&gt;alert(1)&lt;/script&gt; *never* on Friday" in sent
    assert "on Friday" in page.read_text(), "the other file is left alone"


def test_chosen_lines_stay_chosen(snap: af.Snapshot, tmp_path: Path) -> None:
    lines = af.postmortem(snap).timeline
    key = lines["key"].iloc[-1]
    page = af.report(snap, output=tmp_path / "outage.md", star=[key])
    assert read_written(page).stars == [key]
    assert read_written(af.report(snap, update=page)).stars == [key]


def test_the_command_updates_in_place(tmp_path: Path) -> None:
    command = ["report", "postmortem", "--from", EVIDENCE, "--slo", "99.9%"]
    done = run(*command, "-o", "outage.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    write_into(tmp_path / "outage.md", "actions", "- Kim: an alert, by Friday\n")
    done = run(*command, "--update", "outage.md", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "written to outage.md\n"), done.stderr
    text = (tmp_path / "outage.md").read_text()
    assert "- Kim: an alert, by Friday\n" in text
    assert "30-day budget used" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Something else\n", "must be a postmortem that allocframe wrote"),
        (
            "<!-- people: lessons -->\nmine\n<!-- people: actions -->\n<!-- end of people: actions -->\n",
            "the section lessons has no end",
        ),
        (
            "<!-- people: lessons -->\na\n<!-- end of people: lessons -->\n" * 2,
            "has the section lessons twice",
        ),
    ],
)
def test_a_file_whose_words_would_be_lost_is_left_alone(
    text: str, message: str, snap: af.Snapshot, tmp_path: Path
) -> None:
    page = tmp_path / "outage.md"
    page.write_text(text)
    with pytest.raises(af.ConfigError, match=message):
        af.report(snap, update=page)
    assert page.read_text() == text


def test_what_people_wrote_is_never_in_a_redacted_report(snap: af.Snapshot, tmp_path: Path) -> None:
    page = af.report(snap, output=tmp_path / "outage.md")
    with pytest.raises(af.ConfigError, match="redact and update exclude each other"):
        af.report(snap, output=tmp_path / "a.md", update=page, redact=True)


def test_a_new_report_in_place_of_one_with_words_of_people_keeps_a_copy_of_it(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    page = af.report(snap, output=tmp_path / "outage.md")
    af.report(snap, output=page)
    af.report(snap, output=tmp_path / "outage.html", update=page)
    af.report(snap, output=tmp_path / "outage.html")
    assert list(tmp_path.glob("*.bak")) == [], "nobody had written anything"
    (tmp_path / "outage_files" / "mine.png").write_bytes(b"a screenshot")
    write_into(page, "lessons", "Never on Friday.\n")
    for copy in ("outage.md.bak", "outage.md.bak2"):
        with pytest.warns(UserWarning, match=f"people had written into it.*kept as {copy}"):
            af.report(snap, output=page)
        assert "Never on Friday." in (tmp_path / copy).read_text()
        assert "Never on Friday." not in page.read_text()
        write_into(page, "lessons", "Never on Friday.\n")
        page = af.report(snap, update=page)  # written by allocframe, yet with these words
    assert (tmp_path / "outage_files" / "mine.png").exists()
