"""``allocframe diagnose --watch``: new, changed and ended incidents as lines and to a webhook."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .._utils.interrupts import set_from_signal
from .._utils.prose import one_line
from .._utils.text import visible
from ..errors import AllocframeError, ConfigError
from ..nomad.config import Scrubber
from ..nomad.retry import backoff
from ..snapshot.snapshot import Snapshot

if TYPE_CHECKING:
    from ..diagnosis.follow import News

_TRIES = 4
_TIMEOUT = 10.0
_CREDENTIALS = re.compile(r"(://)[^/@\s\"']+@|([?&][\w.-]*=)[^&\s\"']+")
"""Passwords and tokens in addresses that an error names."""

Look = Callable[[], tuple[Snapshot, Any]]
"""Returns a snapshot, and evaluations if they can be read."""


class Webhook:
    """Posts news as JSON, with a `text` that chat programs show; tries a few times, then gives up.

    Parameters
    ----------
    url : str
        Where to; it may hold a secret, so no message names more of it than its host.

    Raises
    ------
    ConfigError
        It is not an http or https address.
    """

    def __init__(self, url: str, scrub: Scrubber, wait: Callable[[float], object]) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--webhook must be an http or https address with a host")
        self._url, self._host, self._scrub, self._wait = url, parts.hostname, scrub, wait
        # a redirect would carry the incident to whoever the answer names
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, news: News) -> str | None:
        """Return None once it is delivered, else why not."""
        body = json.dumps(scrubbed(news.to_dict(), self._scrub)).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - http or https, see above
        error = ""
        for attempt in range(1, _TRIES + 1):
            try:
                with self._opener.open(request, timeout=_TIMEOUT):
                    return None
            except urllib.error.HTTPError as answer:
                answer.close()
                error = f"HTTP {answer.code}"
                if answer.code < 500 and answer.code != 429:
                    break
            except (OSError, ValueError) as problem:
                error = str(getattr(problem, "reason", problem))
            if attempt < _TRIES:
                self._wait(backoff(attempt, first=0.5))
        reason = visible(error.replace(self._url, "..."))
        return f"cannot post an incident to the webhook at {self._host}: {reason}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def scrubbed(value: Any, scrub: Scrubber) -> Any:
    """Return plain JSON, or text, without the client's secrets and without credentials in addresses."""
    if isinstance(value, str):
        return _CREDENTIALS.sub(_without_credentials, scrub.text(value))
    if isinstance(value, list):
        return [scrubbed(each, scrub) for each in value]
    if isinstance(value, dict):
        return {name: scrubbed(each, scrub) for name, each in value.items()}
    return value


def _without_credentials(found: re.Match[str]) -> str:
    return f"{found[1]}...@" if found[1] else f"{found[2]}..."


def follow(
    look: Look,
    stop: threading.Event,
    *,
    interval: float,
    as_json: bool,
    webhook: Webhook | None,
    scrub: Scrubber,
) -> None:
    """Diagnose at every interval until `stop` is set, and report what is new."""
    from ..diagnosis.diagnose import diagnose
    from ..diagnosis.follow import IncidentTracker

    tracker, trouble = IncidentTracker(), None
    while not stop.is_set():
        try:
            snapshot, evaluations = look()
            with snapshot:
                news = tracker.update(diagnose(snapshot, evaluations=evaluations, progress=False))
            trouble = None
        except (AllocframeError, OSError) as error:
            # an incident does not end because nobody can see it
            news = []
            if str(error) != trouble:
                trouble = str(error)
                _say(f"cannot diagnose: {scrubbed(trouble, scrub)}")
        for each in news:
            plain = scrubbed(each.to_dict(), scrub)
            print(json.dumps(plain) if as_json else one_line(plain["text"]), flush=True)
            if webhook and (failed := webhook.send(each)):
                _say(failed)
        stop.wait(interval)


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def until_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or Ctrl-C sets."""
    stop = threading.Event()

    def handle(*_: object) -> None:
        set_from_signal(stop)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
