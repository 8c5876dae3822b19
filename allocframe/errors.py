"""The error tree. Every message says what happened, where, and what to do; none ever holds a token."""

from __future__ import annotations


class AllocframeError(Exception):
    """The root of every error that allocframe raises on purpose."""


class ConfigError(AllocframeError, ValueError):
    """An argument or a ``NOMAD_*`` variable has a value that cannot be used."""


class ConnectionFailed(AllocframeError):
    """No answer could be had: refused, reset, unknown host, or TLS not verified."""


class RequestTimeout(AllocframeError):
    """The answer did not come within the deadline."""


class NotNomad(AllocframeError):
    """Something answered, but not as Nomad does (a login page, a proxy's error page)."""


class ResponseTooLarge(AllocframeError):
    """One answer is larger than the client is ready to hold."""


class ResultUnknown(AllocframeError):
    """A request that changes something was sent, and its answer was lost: it may or may not have been carried out."""


class ApiError(AllocframeError):
    """Nomad refused a request.

    Attributes
    ----------
    status : int
        HTTP status. Nomad also uses 500 for bad input: the meaning is in `text`.
    text : str
        Nomad's own words.
    method, path : str
        The request, without its query.
    """

    def __init__(
        self, status: int, text: str, *, method: str = "GET", path: str = "", hint: str = ""
    ) -> None:
        self.status = status
        self.text = text
        self.method = method
        self.path = path
        self.hint = hint
        said = text.strip() or "(no text)"
        message = f"{method} {path}: Nomad answered {status}: {said}"
        super().__init__(f"{message.removesuffix('.')}. {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.status, self.text, self.method, self.path, self.hint))


def _rebuild(kind: type[ApiError], status: int, text: str, method: str, path: str, hint: str) -> ApiError:
    return kind(status, text, method=method, path=path, hint=hint)


class PermissionDenied(ApiError):
    """The token is missing, unknown or expired, or lacks the capability."""


class NotFound(ApiError):
    """There is no such allocation in what this token may read."""


class NodeUnreachable(ApiError):
    """The allocation exists, but its node cannot be asked."""


class Conflict(ApiError):
    """The allocation or task is not in a state for that action."""


class BadRequest(ApiError):
    """Nomad could not make sense of the request."""


class Unsupported(ApiError):
    """This server's version does not have what was asked for."""


class DecodeError(AllocframeError):
    """A captured page is not what Nomad sends.

    Attributes
    ----------
    file : str
        The page or file.
    record : int or None
        Position of the record in it, from 0.
    """

    def __init__(self, message: str, *, file: str = "", record: int | None = None) -> None:
        self.file = file
        self.record = record
        super().__init__(message)


class ExecError(AllocframeError):
    """A command could not be started, or its session was lost before its end was known.

    Attributes
    ----------
    stdout, stderr : bytes
        What had come until then.
    """

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(message)


class MissingExtra(AllocframeError, ImportError):
    """An optional part is not installed; the message says the pip line."""
