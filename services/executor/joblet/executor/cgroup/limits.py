"""The limits of one job as numbers the kernel understands. Values only: no file is touched here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

API_NAMES: Final[Mapping[str, str]] = {
    "cpu_percent": "maxCPU",
    "cpu_cores": "cpuCores",
    "memory_bytes": "maxMemory",
    "io_bytes_per_second": "maxIOBPS",
    "max_processes": "maxProcesses",
}
"""What the user calls the fields of `Limits`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the payload of a job may use at most. 0 (or None for the cores) is no limit of that kind.

    cpu_percent              100 is one full CPU; held by the CFS bandwidth controller, period 100 ms
    cpu_cores                CPU numbers the job may run on, or None for those the executor has
    memory_bytes             memory with page cache, tmpfs and kernel memory; swap is never given on top
    io_bytes_per_second      for each device, reads and writes counted apart
    max_processes            processes and threads together
    """

    cpu_percent: int = 0
    cpu_cores: tuple[int, ...] | None = None
    memory_bytes: int = 0
    io_bytes_per_second: int = 0
    max_processes: int = 0
