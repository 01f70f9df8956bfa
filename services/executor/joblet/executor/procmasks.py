"""What jobs see of /proc only as nothing, or may only read: the list that attestation holds jobinit to.

The same names stand in jobinit's rootfs.c; `procmasks_test` compares the two.
"""

import functools
from pathlib import Path
from typing import Final

EMPTY_FILES: Final = (
    "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/kmsg",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list",
)  # fmt: skip
EMPTY_DIRECTORIES: Final = ("/proc/acpi", "/proc/asound", "/proc/scsi")
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@functools.cache
def present() -> frozenset[str]:
    """Those that this kernel has: each must be a mount in every job."""
    return frozenset(name for name in (*EMPTY_FILES, *EMPTY_DIRECTORIES, *READ_ONLY) if Path(name).exists())
