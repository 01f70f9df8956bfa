"""What travels beside a call: the keys of Joblet's gRPC metadata and the form of their values.

Without grpc, so that rnx can know them before it pays for the library. Values are ASCII (gRPC over HTTP/2, "Custom-
Metadata"); texts are percent-encoded.
"""

import re
from urllib.parse import quote, unquote

REQUEST_ID = "joblet-request-id"
"""With a request: names it in the log of every service it passes through."""

HINT = "joblet-hint"
"""With an error: how the reader can mend it, encoded."""

FIELD = "joblet-field"
"""With an error that is about one field of the request: that field, encoded."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def is_request_id(text: object) -> bool:
    """Whether `text` may stand in a log line as it is; anything else is replaced by an id of our own."""
    return isinstance(text, str) and _REQUEST_ID.fullmatch(text) is not None


def encode(text: str) -> str:
    return quote(text, safe=_PRINTABLE)


def decode(value: str | bytes | None) -> str | None:
    return unquote(value) if isinstance(value, str) else None
