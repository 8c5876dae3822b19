"""Builds wheel and sdist, checks their metadata and contents, and installs each extra alone from the wheel.

    python tools/package.py [EXTRA ...]

An extra is right if what it is for works in an environment that holds nothing else, and if, without it, the
error names the line that installs it. "core" is the wheel without extras. The files for a release are then in
dist/.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
RECORDED = ROOT / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
ARCHIVE = ROOT / "tests" / "data" / "archive-1"

HEAD = """
import allocframe as af
snap = af.read_json("allocations.json")
def lacks(extra, use):
    try:
        use()
    except af.MissingExtra as error:
        assert f"pip install 'allocframe[{extra}]'" in str(error), error
    else:
        raise AssertionError(f"{extra} is not lacking")
"""

CHECKS = {
    "core": """
assert len(snap.events) and len(snap.sql("SELECT * FROM events"))
snap.save("outage.allocframe")
assert len(af.load("outage.allocframe")) == len(snap)
lacks("stats", lambda: af.stats)
lacks("stats", lambda: af.findings)
lacks("plots", lambda: af.plots)
lacks("archive", lambda: af.Archive)
lacks("widgets", lambda: af.ControlPanel)
lacks("widgets", lambda: af.Terminal)
lacks("widgets", lambda: af.timeline)
lacks("demo", lambda: af.sim)
import asyncio, os, subprocess, sys
async def reads():
    async with af.AsyncClient("http://127.0.0.1:9") as client:
        assert client
asyncio.run(reads())
done = subprocess.run([sys.executable, "-m", "allocframe", "--help"], capture_output=True, text=True)
assert done.returncode and "pip install 'allocframe[cli]'" in done.stderr, done
""",
    "stats": """
assert len(af.stats.restarts(snap, by="job_id")) and len(af.findings(snap))
lacks("plots", lambda: af.plots)
lacks("report", lambda: af.report(snap, "cluster", output="cluster.html", progress=False))
""",
    "plots": """
import matplotlib
matplotlib.use("agg")
af.plots.timeline(snap).figure.savefig("timeline.png")
assert af.report(snap, "cluster", output="cluster.html", progress=False)
""",
    "exec": "import websockets.sync.client\nlacks('widgets', lambda: af.Terminal)",
    "widgets": "assert af.ControlPanel and af.Terminal and af.timeline(snap).data",
    "archive": """
archive = af.Archive("archive")
archive.compact()
assert len(archive.events()) and len(archive.snapshot().allocations)
""",
    "cli": """
import os, subprocess, sys
program = os.path.join(os.path.dirname(sys.executable), "allocframe")
for command in ([], ["fetch"], ["record"], ["report"], ["archive"], ["demo"]):
    subprocess.run([program, *command, "--help"], check=True, capture_output=True)
done = subprocess.run([program, "demo"], capture_output=True, text=True)
assert done.returncode and "pip install 'allocframe[demo]'" in done.stderr, done
""",
    "report": """
import glob
af.report(snap, "cluster", output="cluster.html")
assert "data:image/png" in open("cluster.html").read()
af.report(snap, "cluster", output="cluster.md")
assert glob.glob("cluster_files/*.png")
""",
    "demo": """
import os, subprocess, sys
program = os.path.join(os.path.dirname(sys.executable), "allocframe")
subprocess.run([program, "demo", "--story", "oom", "--allocations", "60"], check=True, capture_output=True)
assert os.path.getsize("demo.html") > 10_000
done = subprocess.run([program, "demo", "--lab"], capture_output=True, text=True)
assert done.returncode and "pip install 'allocframe[lab]'" in done.stderr, done
""",
    "lab": """
import glob, os, subprocess, sys
from importlib.resources import files
assert subprocess.run([sys.executable, "-m", "jupyterlab", "--version"], capture_output=True).returncode == 0
for notebook in sorted(glob.glob(str(files("allocframe") / "notebooks" / "*.ipynb"))):
    run = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", ".", notebook]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
""",
    "all": "assert af.plots and af.Archive and af.Terminal and af.sim and len(af.findings(snap))",
}
"""What is tried of each extra, in an environment that has nothing else."""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run([str(word) for word in command], cwd=cwd, check=True)


def uv(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "uv", *arguments)


def build() -> Path:
    """Build the sdist, and the wheel from it; return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    uv("build", "--quiet", "--out-dir", DIST)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(DIST.glob("allocframe-*")))
    (wheel,) = DIST.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Fail if the wheel lacks a licence, the types or data, or if it or the sdist holds other files."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for wanted in (
        "/licenses/LICENSE",
        "/licenses/NOTICE",
        "allocframe/py.typed",
        "terminal.js",
        "panel.js",
        "time_machine.js",
        "timeline.js",
        "02_postmortem.ipynb",
    ):
        assert any(name.endswith(wanted) for name in names), f"{wanted} is not in the wheel"
    assert {name.split("/")[0].split("-")[0] for name in names} == {"allocframe"}, names
    with tarfile.open(next(DIST.glob("*.tar.gz"))) as archive_:
        tops = {name.split("/")[1] for name in archive_.getnames() if "/" in name}
    assert "tests" not in tops, "the tests need the whole repository"
    assert {"allocframe", "LICENSE", "NOTICE", "pyproject.toml"} <= tops, tops


def check_extra(wheel: Path, extra: str) -> None:
    """Install the wheel with one extra into an environment of its own, and try what it is for."""
    with tempfile.TemporaryDirectory(prefix=f"allocframe-{extra}-") as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
        wanted = str(wheel) if extra == "core" else f"{wheel}[{extra}]"
        uv("pip", "install", "--quiet", "--python", python, wanted)
        recorded = json.loads(RECORDED.read_text())
        (folder / "allocations.json").write_text(json.dumps(recorded[0]["json"]))
        shutil.copytree(ARCHIVE, folder / "archive")
        (folder / "check.py").write_text(HEAD + CHECKS[extra])
        environment = {
            "HOME": name,
            "PATH": f"{python.parent}:/usr/bin:/bin",
            "ALLOCFRAME_AUDIT": f"{name}/audit.jsonl",
        }
        subprocess.run([str(python), "check.py"], cwd=folder, env=environment, check=True)
    print(f"{extra}: fine", flush=True)


def main() -> None:
    wheel = build()
    check_contents(wheel)
    for extra in sys.argv[1:] or CHECKS:
        check_extra(wheel, extra)


if __name__ == "__main__":
    main()
