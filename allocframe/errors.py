"""The error tree. Every message says what happened, where, and what to do; none contains a token."""

from __future__ import annotations


class AllocframeError(Exception):
    """The base class of allocframe's errors."""


class ConfigError(AllocframeError, ValueError):
    """An argument or a ``NOMAD_*`` variable has an invalid value."""


class ConnectionFailed(AllocframeError):
    """The server could not be reached: connection refused or reset, unknown host, or TLS not verified."""


class RequestTimeout(AllocframeError):
    """The deadline passed before the answer was complete."""


class NotNomad(AllocframeError):
    """The answer is not from Nomad, but for example a login page or a proxy's error page."""


class ResponseTooLarge(AllocframeError):
    """An answer is larger than the client accepts."""


class ResultUnknown(AllocframeError):
    """The answer to a change was lost: Nomad may or may not have made the change."""


class ApiError(AllocframeError):
    """Nomad refused a request.

    Attributes
    ----------
    status : int
        HTTP status. Nomad uses 500 for bad input, too; `text` says what happened. 0 if Nomad did not say it.
    text : str
        Nomad's message.
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
        said = f"Nomad answered {status}: " if status else ""
        message = f"{method} {path}: {said}{text.strip() or '(no text)'}"
        super().__init__(f"{message.removesuffix('.')}. {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.status, self.text, self.method, self.path, self.hint))


def _rebuild(kind: type[ApiError], status: int, text: str, method: str, path: str, hint: str) -> ApiError:
    return kind(status, text, method=method, path=path, hint=hint)


class PermissionDenied(ApiError):
    """The token is missing, unknown or expired, or lacks the capability."""


class NotFound(ApiError):
    """This token sees no such allocation."""


class NodeUnreachable(ApiError):
    """The allocation exists, but its node cannot be reached."""


class Conflict(ApiError):
    """The state of the allocation or task does not allow the action."""


class BadRequest(ApiError):
    """Nomad rejected the request as invalid."""


class Unsupported(ApiError):
    """This version of the server lacks the requested feature."""


class DecodeError(AllocframeError):
    """A file or an answer is not what Nomad sends.

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
    """A command could not be started, or its session ended before its exit code came.

    Attributes
    ----------
    stdout, stderr : bytes
        The output up to then.
    """

    def __init__(self, message: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(message)


class MissingExtra(AllocframeError, ImportError):
    """An optional dependency is not installed; the message has the pip command."""
