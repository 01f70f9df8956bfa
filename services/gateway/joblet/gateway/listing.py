"""ListJobs: which jobs, in which order, a page at a time.

A page token is the sequence number of the last job of the page before, "-" before it for a list that runs from new to
old. Sequence numbers only grow: jobs that are inserted or deleted between two pages make no other job appear twice or
not at all.
"""

import asyncio
import re
from typing import Final

from google.protobuf import unknown_fields
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.states import JobState
from joblet.common.units import NS_PER_SECOND
from joblet.gateway.store import listing as queries
from joblet.gateway.store.database import Database
from joblet.gateway.store.listing import Wanted
from joblet.gateway.validation import MAX_LABELS, MAX_NAME_BYTES

PAGE_BYTES = 3 * 1024 * 1024
PAGE_ENVELOPE_BYTES = 64 * 1024  # the least that a page stays below the largest message
PAGE_ROWS = 1000  # read at a time; other calls are served in between
FIRST_AFTER, FIRST_BEFORE = 0, 2**63 - 1

_TOKEN: Final = re.compile(r"(-?)(\d{1,18})", re.ASCII)
_ID_PREFIX: Final = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)


class Listings:
    def __init__(self, database: Database, max_message_bytes: int) -> None:
        self._database = database
        self._page_bytes = min(PAGE_BYTES, max_message_bytes - PAGE_ENVELOPE_BYTES)

    async def page(self, request: job_pb2.EmptyRequest) -> bytes:
        """A serialized `Jobs`: at most `pageSize` jobs (0: any number) in at most 3 MiB, and where the next page
        begins. A job that alone is larger is a page of its own. Raises InvalidArgument."""
        wanted = filters(request)
        cursor = position(request.pageToken, newest_first=wanted.newest_first)
        page_size = request.pageSize
        if page_size < 0:
            raise InvalidArgument(f"pageSize must not be negative: {page_size}", field="pageSize")
        entries: list[bytes] = []
        size = 0
        count = min(PAGE_ROWS, page_size + 1) if page_size else PAGE_ROWS
        while rows := await self._database.read(queries.rows, wanted, cursor, count):
            for sequence, entry in rows:
                size += len(entry)
                full = size > self._page_bytes or (page_size and len(entries) >= page_size)
                if full and entries:
                    token = f"-{cursor}" if wanted.newest_first else str(cursor)
                    return b"".join(entries) + job_pb2.Jobs(nextPageToken=token).SerializeToString()
                entries.append(entry)
                cursor = sequence
            await asyncio.sleep(0)
        return b"".join(entries)


def position(page_token: str, *, newest_first: bool) -> int:
    """The sequence number to go on behind. Raises InvalidArgument for what no page of such a list has given out."""
    if not page_token:
        return FIRST_BEFORE if newest_first else FIRST_AFTER
    match = _TOKEN.fullmatch(page_token)
    if match is None or bool(match[1]) != newest_first:
        raise InvalidArgument("invalid pageToken: expected the nextPageToken of an earlier page", field="pageToken")
    return int(match[2])


def filters(request: job_pb2.EmptyRequest) -> Wanted:
    """Raises InvalidArgument naming the field."""
    unknown = unknown_fields.UnknownFieldSet(request)
    if len(unknown):
        raise InvalidArgument(
            f"EmptyRequest has a field number {unknown[0].field_number} that this gateway does not know",
            hint="the client is newer than the gateway",
        )
    if len(request.labels) > MAX_LABELS:
        raise InvalidArgument(f"invalid labels: {len(request.labels)} of them, more than {MAX_LABELS}", field="labels")
    if "" in request.labels:
        raise InvalidArgument("invalid labels: a label has no name", field="labels")
    if len(request.name.encode()) > MAX_NAME_BYTES:
        raise InvalidArgument(f"invalid name: longer than {MAX_NAME_BYTES} bytes", field="name")
    if request.idPrefix and not _ID_PREFIX.fullmatch(request.idPrefix):
        raise InvalidArgument("invalid idPrefix: expected the first characters of a job's id", field="idPrefix")
    both = request.HasField("since") and request.HasField("until")
    if both and _nanoseconds(request.since) >= _nanoseconds(request.until):
        raise InvalidArgument("since must be before until", field="since")
    return Wanted(
        states=tuple(_state(status) for status in request.statuses),
        labels=tuple(sorted(request.labels.items())),
        node_id=request.nodeId,
        name=request.name,
        since_ns=_nanoseconds(request.since) if request.HasField("since") else None,
        until_ns=_nanoseconds(request.until) if request.HasField("until") else None,
        newest_first=request.newestFirst,
        id_prefix=request.idPrefix,
    )


def _state(status: str) -> JobState:
    try:
        return JobState(status)
    except ValueError:
        known = ", ".join(JobState)
        raise InvalidArgument(f"invalid statuses: expected one of {known}", field="statuses") from None


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * NS_PER_SECOND + time.nanos
