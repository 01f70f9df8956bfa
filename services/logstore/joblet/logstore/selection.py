"""What a reader wants of one job's output: where it begins, where it ends, and whether with times. Values only."""

from dataclasses import dataclass

from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.common.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Selection:
    """Times are nanoseconds since the epoch, as the index has them. What is None was not asked for."""

    offset: int = 0
    tail_lines: int | None = None  # so many lines of what is there; not together with an offset
    since_ns: int | None = None  # written at this time or later; not together with an offset
    until_ns: int | None = None  # written before this time
    follow: bool = True  # to the end of the output, whenever that comes; otherwise what is there at this moment
    timestamps: bool = False

    @property
    def searched(self) -> bool:
        """Whether the log has to be looked into to find where the output wanted begins."""
        return self.tail_lines is not None or self.since_ns is not None

    @property
    def timed(self) -> bool:
        """Whether the index decides which bytes may be sent, and when."""
        return self.until_ns is not None or self.timestamps


def parse(request: ReadLogsRequest) -> Selection:
    """Raises InvalidArgument naming the field."""
    if request.offset < 0:
        raise InvalidArgument(f"offset must not be negative, got {request.offset}", field="offset")
    if request.tail_lines < 0:
        raise InvalidArgument(f"tail_lines must not be negative, got {request.tail_lines}", field="tail_lines")
    selection = Selection(
        offset=request.offset,
        tail_lines=request.tail_lines if request.HasField("tail_lines") else None,
        since_ns=request.since_ns if request.HasField("since_ns") else None,
        until_ns=request.until_ns if request.HasField("until_ns") else None,
        follow=not request.no_follow,
        timestamps=request.timestamps,
    )
    if selection.offset and selection.searched:
        raise InvalidArgument("offset excludes tail_lines and since_ns", field="offset")
    return selection
