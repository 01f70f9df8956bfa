"""Parsing and printing of quantities, once, at the edge: inside there are only seconds, bytes, nanoseconds and tuples.

Every parser raises InvalidArgument (which is a ValueError) with a text that says what it expected.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from joblet.common.errors import InvalidArgument

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
NS_PER_SECOND = 1_000_000_000

MAX_CPUS = 8192  # CONFIG_NR_CPUS of the largest distribution kernels; a bound on what a range may expand to

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|min|s|m|h|d)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds in "1h30m", "100ms", "2min", "1d" or "0" (Go's notation with `min` and `d` added)."""
    stripped = text.strip()
    if stripped == "0":
        return 0.0
    if not _DURATION.fullmatch(stripped):
        raise InvalidArgument(f'expected a duration such as "30s", "1h30m" or "100ms", got "{text}"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(stripped))


def rfc3339(ns: int) -> str:
    """A time in nanoseconds since the epoch as "2024-01-15T10:30:00Z", cut to the second; "" for 0, no time."""
    if ns == 0:
        return ""
    return _rfc3339(ns // NS_PER_SECOND)


@lru_cache(maxsize=1024)
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs in "0-2,5" (the kernel's list format, cpuset(7)), sorted, each once."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part.strip())
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if not 0 <= first <= last < MAX_CPUS:
            raise InvalidArgument(f'expected a list of CPUs such as "0-2,5", each below {MAX_CPUS}, got "{text}"')
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The inverse of parse_cpu_list: (0, 1, 2, 5) -> "0-2,5"."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
