"""What abuse costs the job beside it: how long /bin/true takes from submission to its end, quiet and abused.

Run as root: `make bench-neighbour` or `python bench/neighbour.py [--rounds N]`. Prints Markdown. The abuse is that of
`tests/e2e/abusers.py`: five jobs, each with 40 % of a core, 64 MB and 64 processes, flood their output, fork, take
memory and open files. Quiet rounds come before and after, so that drift of the machine shows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from abusers import abused
from limited import Limited, limited_system
from measure import Series, interleaved, machine

TRUE = "/bin/true"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="of each of the three series")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="joblet-bench-") as name, limited_system(Path(name)) as limited:
        before = series(limited, "quiet, before", options.rounds)
        with abused(limited):
            beside = series(limited, "beside the abuse", options.rounds)
        after = series(limited, "quiet, after", options.rounds)
    report([before, beside, after])


def series(limited: Limited, name: str, rounds: int) -> Series:
    """One job after another."""
    (taken,) = interleaved({name: lambda: run(limited)}, rounds)
    return taken


def run(limited: Limited) -> None:
    job = limited.wait(limited.start(TRUE))
    if job.status != "COMPLETED":
        raise RuntimeError(f"{job.uuid}: {job.status} {job.reason} {job.message}")


def report(all_series: list[Series]) -> None:
    """A table with ratios to the quiet rounds of both sides."""
    before, beside, after = all_series
    quiet = Series("quiet", before.seconds + after.seconds)
    print(f"## bench/neighbour\n\n{machine()}\n")
    print("| what | median ms | p99 ms |\n|---|---:|---:|")
    for entry in all_series:
        print(f"| {entry.name} | {entry.median * 1e3:.1f} | {entry.percentile(99) * 1e3:.1f} |")
    ratios = f"{beside.median / quiet.median:.2f}", f"{beside.percentile(99) / quiet.percentile(99):.2f}"
    print(f"| abused / quiet | x {ratios[0]} | x {ratios[1]} |")


if __name__ == "__main__":
    main()
