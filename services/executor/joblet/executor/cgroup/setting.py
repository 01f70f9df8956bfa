"""One limit is one file of the kernel: written, read back, compared."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from joblet.common.units import format_cpu_list, parse_cpu_list
from joblet.executor.cgroup import files
from joblet.executor.cgroup.driver import LimitNotApplied

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def apply(field: str, path: str, value: str, holds: Callable[[str], bool], *, hint: str | None = None) -> None:
    """Writes `value` and asks `holds` about what the kernel then says. LimitNotApplied when it refuses or differs."""
    try:
        answer = files.exchange(path, value)
    except FileNotFoundError as error:
        raise LimitNotApplied(field, f"this node has no {Path(path).name}") from error
    except OSError as error:
        raise LimitNotApplied(
            field, f"{path} refuses {value!r}: {os.strerror(error.errno or 0).lower()}", hint=hint
        ) from error
    if not holds(answer):
        raise LimitNotApplied(field, f"{path} holds {answer.strip()!r} after {value!r} was written", hint=hint)


def apply_number(field: str, path: str, value: int) -> None:
    apply(field, path, str(value), lambda answer: files.number(answer) == value)


def apply_bytes(field: str, path: str, value: int) -> None:
    """The kernel keeps memory limits in whole pages and rounds down (mm/page_counter.c)."""
    apply(field, path, str(value), lambda answer: files.number(answer) == value - value % PAGE_BYTES)


def apply_cores(path: str, cores: tuple[int, ...]) -> None:
    hint = f"the executor has the cores {format_cpu_list(os.sched_getaffinity(0))}"
    apply("cpu_cores", path, format_cpu_list(cores), lambda answer: parse_cpu_list(answer) == cores, hint=hint)


def require_no_swap(missing: str) -> None:
    """Without `missing`, the file that limits swap, a job could go past its memory on a host that has swap."""
    if len(files.read("/proc/swaps").splitlines()) > 1:
        raise LimitNotApplied(
            "memory_bytes",
            f"the host has swap and no {missing} to limit it by",
            hint="turn swap off (swapoff -a) or boot with swapaccount=1",
        )


def require_devices(devices: Sequence[tuple[int, int]]) -> None:
    if not devices:
        raise LimitNotApplied(
            "io_bytes_per_second",
            "no disk is known under the job's directories",
            hint="the kernel limits I/O by disk: keep the state directory on a disk, or set maxIOBPS to 0",
        )
