"""Runs pytest in a guest: user-mode Linux with cgroup v2, on this host's files.

    tests/e2e/guest/run [--timeout SECONDS] [--memory MIB] [PYTEST_ARGUMENTS...]

The guest is one process of the host that needs neither KVM nor an image: it boots in two seconds, sees the host's root
through an overlay (what it writes is gone afterwards), has a disk of its own under /tmp and root's full rights over a
kernel of its own. It has one CPU, only IPv4 loopback, no cpuset controller and no Landlock. Output streams to
stdout; the exit status is pytest's, 124 after the timeout, 3 when the guest died. When no argument is a path it runs
DEFAULT. `--command` runs another command instead of pytest.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
DEFAULT = ("services/executor/joblet/executor/cgroup/driver_root_test.py", "tests/e2e/guest/own_cgroup_checks.py")
"""What must hold on cgroup v2. Files that need the guest do not end in _test.py, so nothing finds them by itself."""

DISK_BYTES = 8 << 30  # sparse
TIMED_OUT = 124
GUEST_DIED = 3
END_SECONDS = 10.0
HANDED_ON = ("LANG", "NO_COLOR", "FORCE_COLOR", "HYPOTHESIS_PROFILE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/e2e/guest/run", description="pytest in a guest with cgroup v2")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB")
    parser.add_argument("--command", action="store_true", help="the arguments are a command, not pytest's")
    options, arguments = parser.parse_known_args()
    command = arguments if options.command else pytest_command(arguments)
    with tempfile.TemporaryDirectory(prefix="jbtest-guest-") as directory:
        share, disk = Path(directory, "share"), Path(directory, "disk")
        make_share(share, command)
        make_disk(disk)
        timed_out = boot(Path(directory), share, disk, options.memory, options.timeout)
        if timed_out:
            print(f"guest: stopped after {options.timeout:g} seconds", file=sys.stderr)
            return TIMED_OUT
        status = share / "status"
        if not status.exists():
            print("guest: ended without a result", file=sys.stderr)
            return GUEST_DIED
        return int(status.read_text())


def pytest_command(arguments: list[str]) -> list[str]:
    chosen = any((ROOT / argument.split("::")[0]).exists() for argument in arguments)
    pytest = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-p", "no:cacheprovider"]
    return [*pytest, *arguments, *(() if chosen else DEFAULT)]


def make_share(share: Path, command: list[str]) -> None:
    share.mkdir()
    (share / "arguments").write_bytes("\0".join((str(ROOT), *command)).encode() + b"\0")
    environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    if not sys.stdout.isatty():
        environment.setdefault("NO_COLOR", "1")
    environment["COLUMNS"] = str(shutil.get_terminal_size((120, 24)).columns)
    (share / "environment").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))


def make_disk(disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-qF", "-O", "^has_journal", "-E", "lazy_itable_init=1", disk], check=True)


def boot(directory: Path, share: Path, disk: Path, memory_mib: int, timeout_seconds: float) -> bool:
    """Runs the guest to its end; true when it had to be stopped. It is killed too when this process is interrupted."""
    with guest(directory, share, disk, memory_mib) as machine:
        try:
            machine.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return True
        return False


@contextlib.contextmanager
def guest(directory: Path, share: Path, disk: Path, memory_mib: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [
        "linux.uml",
        f"mem={memory_mib}M",
        *("root=/dev/root", "rootfstype=hostfs", "hostfs=/", "ro"),
        f"init={HERE / 'init'}",
        f"ubda={disk}",
        *("con=null", "con0=null,fd:1", "ssl=null"),
        *("quiet", "loglevel=1", "selinux=0", "panic=-1"),
        *(f"uml_dir={directory}", "umid=guest"),
        f"guest_share={share}",
    ]
    # A session of its own: the guest's processes are in one group, and only they are.
    machine = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env={"PATH": os.defpath}
    )
    try:
        yield machine
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait(END_SECONDS)


def interrupted(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    sys.exit(main())
