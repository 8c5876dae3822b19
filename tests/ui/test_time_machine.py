"""The time machine's page, in a real browser."""

from __future__ import annotations

from pathlib import Path

import javascript
import labpage
from javascript import sent
from playwright.sync_api import Browser, expect

import allocframe as af

CAPTURE = Path(__file__).parents[1] / "data" / "incidents" / "nomad-1.3.1-two.allocframe"
_ANSWER = "state => emit('msg:custom', { type: 'state', ...state })"


def test_the_slider_asks_for_a_moment_and_shows_it_in_light_dark_and_on_a_phone(browser: Browser) -> None:
    machine = af.TimeMachine(af.load(CAPTURE))
    middle = machine.begin + (machine.end - machine.begin) * 0.6
    labpage.PICTURES.mkdir(parents=True, exist_ok=True)
    for name, scheme, width in (("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390)):
        with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
            page, errors = context.new_page(), list[str]()
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            javascript.mount(page, "time_machine", {"frame": machine.frame})
            expect(page.get_by_role("status")).to_have_text(f"{machine.end:%Y-%m-%d %H:%M:%S} UTC")
            page.get_by_label("Time", exact=True).fill(str(middle.value // 1_000_000))
            asked = sent(page, "at")[-1]["at"]
            page.evaluate(_ANSWER, {**machine.step(middle), "at": asked})
            expect(page.get_by_role("status")).to_have_text(f"{middle:%Y-%m-%d %H:%M:%S} UTC")
            job = machine.jobs(middle).iloc[0]
            expect(page.get_by_role("cell", name=job["job"], exact=True).first).to_be_visible()
            # While an answer is awaited, only the last moment is kept.
            before = len(sent(page, "at"))
            for _ in range(4):
                page.get_by_role("button", name="▸").click()
            assert len(sent(page, "at")) == before + 1
            first = sent(page, "at")[-1]["at"]
            page.evaluate(_ANSWER, {**machine.step(middle), "at": first})
            assert len(sent(page, "at")) == before + 2
            assert sent(page, "at")[-1]["at"] > first
            page.screenshot(path=labpage.PICTURES / f"time-machine-{name}.png", full_page=True)
            page.evaluate(javascript.axe())
            assert javascript.violations(page, ".allocframe-time-machine") == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert errors == []
