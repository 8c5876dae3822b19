"""The packages of `js/`, installed once for all tests."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "js"
STATIC = ROOT / "allocframe" / "widgets" / "static"

_MOUNT = """async ([script, style, values]) => {
  const heard = new Map();
  window.sent = [];
  window.model = {
    get: name => values[name],
    set: (name, value) => { values[name] = value; window.emit(`change:${name}`); window.emit("change"); },
    on: (name, call) => heard.set(name, [...(heard.get(name) ?? []), call]),
    off: (name, call) => heard.set(name, (heard.get(name) ?? []).filter(each => each !== call)),
    send: message => window.sent.push(message),
  };
  window.emit = (name, ...values) => (heard.get(name) ?? []).forEach(call => call(...values));
  document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  (await import(url)).default.render({ model: window.model, el: document.querySelector("main") });
}"""


def installed() -> Path:
    """Return a copy of `js/` with its packages; skip the test without npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm (Node.js 20 or newer)")
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = (ROOT / "js" / "package-lock.json").read_text()
    stamp = BUILD / ".installed"
    # Several workers of one run want it.
    with (BUILD / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shutil.copytree(ROOT / "js", BUILD, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        if not stamp.exists() or stamp.read_text() != lock:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"]
            subprocess.run(command, cwd=BUILD, check=True, capture_output=True)
            stamp.write_text(lock)
    return BUILD


def axe() -> str:
    """Return axe-core, which checks a page for people who cannot see or use a mouse."""
    return (installed() / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page, selector: str) -> list[str]:
    """Return what axe-core, which is on the page, finds serious in an element of it."""
    found = page.evaluate(
        """async selector => (await axe.run(selector)).violations
        .filter(each => ["serious", "critical"].includes(each.impact))
        .map(each => `${each.id}: ${each.nodes.slice(0, 3).map(node => node.html).join(" | ")}`)""",
        selector,
    )
    return list(found)


def mount(page: Page, name: str, values: dict[str, Any]) -> None:
    """Show a widget on an empty page. The page's `model`, `emit` and `sent` play its kernel."""
    page.set_content('<!doctype html><html lang="en"><title>widget</title><main></main>')
    script, style = ((STATIC / f"{name}.{kind}").read_text() for kind in ("js", "css"))
    page.evaluate(_MOUNT, [script, style, values])


def sent(page: Page, kind: str) -> list[dict[str, Any]]:
    """Return the messages of a type that the widget has sent to its kernel."""
    return list(page.evaluate("kind => sent.filter(message => message.type === kind)", kind))
