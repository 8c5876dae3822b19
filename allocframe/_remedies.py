"""What to say where the way to a server does not lead to Nomad."""

from __future__ import annotations

from ._utils.text import visible


def not_nomad(where: str, status: int, body: bytes) -> str:
    """Say that an answer is not one of Nomad's, with its beginning."""
    excerpt = visible(body[:200].decode("utf-8", "replace"))
    return f"{where}: the answer ({status}) is not Nomad's: {excerpt!r}. Does NOMAD_ADDR name a proxy or login page?"


def tls_hint(text: str) -> str:
    """Say what to set where TLS failed so."""
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return "Set NOMAD_TLS_SERVER_NAME to the name in the certificate (server.<region>.nomad)"
    if "expired" in text:
        return "The server's certificate has expired"
    if "alert" in text.lower():
        return "The server wants a client certificate: set NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY"
    return "Set NOMAD_CACERT to the authority that signed the server's certificate"
