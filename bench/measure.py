"""Timing and printing for the benchmarks: values in seconds; results as medians and ratios against a named peer."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """Repeated measurements of one thing, in seconds."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return self.percentile(95)

    def percentile(self, percent: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * percent / 100))]


def interleaved(
    work: dict[str, Callable[[], None]],
    rounds: int,
    gap_seconds: float = 0.0,
    prepare: Callable[[], None] = lambda: None,
) -> list[Series]:
    """Time every entry once per round, so that drift of the machine falls on all alike; one unmeasured round first.

    `prepare` is done before each measurement and not timed.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):
        for name, step in work.items():
            if gap_seconds:
                time.sleep(gap_seconds)
            prepare()
            start = time.perf_counter()
            step()
            if number >= 0:
                taken[name].append(time.perf_counter() - start)
    return [Series(name, tuple(values)) for name, values in taken.items()]


def table(title: str, series: Sequence[Series], peer: str) -> str:
    """A Markdown table of medians, 95th percentiles and ratios of medians to `peer`."""
    base = next((entry.median for entry in series if entry.name == peer), None)
    lines = [f"### {title}", "", f"| what | median ms | p95 ms | x {peer} |", "|---|---:|---:|---:|"]
    for entry in series:
        ratio = f"{entry.median / base:.2f}" if base else "-"
        lines.append(f"| {entry.name} | {entry.median * 1e3:.1f} | {entry.p95 * 1e3:.1f} | {ratio} |")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on, in one line."""
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
