"""User-mode Linux as the guest: one process of the host that boots in two seconds.

It has one CPU, counts CPU time in ticks of 10 ms, and has only IPv4 loopback, no cpuset controller, no Landlock, no
32-bit system calls and no address space for sanitizers; a call takes longer than the grace between TERM and KILL. The
tests that need more, two that take long and two that give 0.3 s to what takes longer here run in QEMU or on the host.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDE_REGISTERS = HERE.parents[2] / "build/guest/wide_registers.so"
EXECUTOR = "services/executor/joblet/executor"
LEFT_OUT = (
    *("fuzzing", "landlock", "test_sockets", "another_architecture"),
    *("storm", "hundred_megabytes"),
    *("jobinit_that_hangs", "waiting_for_disk_can_be_stopped"),
)
DEFAULT = (
    f"{EXECUTOR}/cgroup/driver_root_test.py",
    f"{EXECUTOR}/cgroup/spare_root_test.py",
    *(
        f"{EXECUTOR}/{name}_root_test.py"
        for name in ("launch", "jobinit", "jobinit_end", "jobinit_output", "jobinit_confinement", "machine",
                     "executor", "server")
    ),
    "tests/e2e/guest/own_cgroup_checks.py",
    "tests/e2e/limits_test.py",
    "tests/e2e/reasons_test.py",
    "tests/e2e/neighbours_test.py",
    "tests/e2e/escape_test.py",
    f"{EXECUTOR}/hardening_root_test.py::test_without_the_line_attestation_refuses[started outside of its cgroup]",
    f"--deselect={EXECUTOR}/server_root_test.py::test_stop",
    *("-k", " and ".join(f"not {words}" for words in LEFT_OUT)),
)  # fmt: skip
"""What must hold on cgroup v2. Files that need the guest do not end in _test.py, so nothing finds them by itself."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on the host for a guest, and with which environment beside PATH."""

    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def command(directory: Path, share: Path, disk: Path, memory_mib: int) -> Iterator[Command]:
    """The guest's command; `directory` is for what it needs while it runs."""
    arguments = [
        "linux.uml",
        f"mem={memory_mib}M",
        *("root=/dev/root", "rootfstype=hostfs", "hostfs=/", "ro"),
        f"init={HERE / 'init'}",
        f"ubda={disk}",
        *("con=null", "con0=null,fd:1", "ssl=null"),
        *("quiet", "loglevel=1", "selinux=0", "panic=-1"),
        *(f"uml_dir={directory}", "umid=guest"),
        *(f"guest_share={share}", "guest_disk=/dev/ubda"),
    ]
    yield Command(arguments, {"LD_PRELOAD": str(WIDE_REGISTERS)})
