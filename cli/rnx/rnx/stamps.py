"""Times in front of lines of output, as `rnx job log --timestamps` prints them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from joblet.common.errors import Internal
from joblet.common.units import NS_PER_SECOND


class Stamper:
    """Puts the time of a line's first byte before it and changes nothing else; only a newline ends a line.

    The output may arrive cut anywhere. It begins with a time, whether or not that is the beginning of a line.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._at_line_begin = True

    def write(self, payload: bytes, times: Sequence[tuple[int, int]]) -> None:
        """`times` are positions in the payload, from 0, and since when in nanoseconds the bytes behind them exist."""
        if not times:
            raise Internal("the server sent output without times")
        ends = [*(begin for begin, _ in times[1:]), len(payload)]
        self._write(
            b"".join(self._stamped(payload[begin:end], ns) for (begin, ns), end in zip(times, ends, strict=True))
        )

    def end_line(self) -> None:
        """What comes next begins a line, whatever came before."""
        if not self._at_line_begin:
            self._write(b"\n")
            self._at_line_begin = True

    def _stamped(self, text: bytes, time_ns: int) -> bytes:
        if not text:
            return b""
        stamp = rfc3339(time_ns).encode() + b" "
        first = stamp if self._at_line_begin else b""
        self._at_line_begin = text.endswith(b"\n")
        return first + text[:-1].replace(b"\n", b"\n" + stamp) + text[-1:]


def rfc3339(time_ns: int) -> str:
    """In UTC with milliseconds, which is finer than the times of a log are: "2024-01-15T10:30:00.120Z"."""
    moment = datetime.fromtimestamp(time_ns // NS_PER_SECOND, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % NS_PER_SECOND // 1_000_000:03}Z"
