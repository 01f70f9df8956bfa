"""Errors on the wire: a JobletError becomes a status with exactly its message, and back.

The hint and the field at fault travel beside it in trailing metadata, percent-encoded because metadata is ASCII.
"""

import grpc

from joblet.common import metadata
from joblet.common.errors import Code, JobletError, from_code

MAX_TEXT_BYTES = 2048  # a status travels in metadata, whose limit is 8 KiB; non-ASCII text triples on the wire
_MAX_HINT_BYTES = 1024

_STATUS: dict[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}


def status_of(error: JobletError) -> grpc.StatusCode:
    return _STATUS[error.code]


def details_of(error: JobletError) -> str:
    return cut(error.message, MAX_TEXT_BYTES)


def metadata_of(error: JobletError) -> tuple[tuple[str, str], ...]:
    pairs = []
    if error.hint:
        pairs.append((metadata.HINT, metadata.encode(cut(error.hint, _MAX_HINT_BYTES))))
    if error.field:
        pairs.append((metadata.FIELD, metadata.encode(cut(error.field, _MAX_HINT_BYTES))))
    return tuple(pairs)


def error_from_rpc(error: grpc.aio.AioRpcError) -> JobletError:
    """The error that a failed call stands for, with the class of its code, and its hint if the server sent one."""
    trailing = dict(error.trailing_metadata() or ())
    return from_code(
        Code[error.code().name],
        error.details() or "",
        hint=metadata.decode(trailing.get(metadata.HINT)),
        field=metadata.decode(trailing.get(metadata.FIELD)),
    )


def cut(text: str, max_bytes: int) -> str:
    """`text` in at most `max_bytes` bytes of UTF-8, an ellipsis at the end if something is missing."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"
