"""Runs pytest in a guest: a kernel of its own with cgroup v2, on this host's files.

    tests/e2e/guest/run [--kernel uml|qemu] [--timeout SECONDS] [--memory MIB] [PYTEST_ARGUMENTS...]

The guest needs neither KVM nor an image: it sees the host's root through an overlay (what it writes is gone
afterwards), has a disk of its own under /tmp and root's full rights over its kernel. `uml` (user-mode Linux) is quick
and lacks a few things, see `uml.py`; `qemu` has all of them and takes ten times as long, see `qemu.py`. Output
streams to stdout; the exit status is pytest's, 124 after the timeout, 3 when the guest died. When no argument is a path
it runs what must hold there. `--command` runs another command instead of pytest.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from guest import qemu, uml

ROOT = Path(__file__).resolve().parents[3]
KERNELS = {"uml": uml, "qemu": qemu}
DISK_BYTES = 8 << 30  # sparse
TIMED_OUT = 124
GUEST_DIED = 3
END_SECONDS = 120.0
HANDED_ON = ("LANG", "NO_COLOR", "FORCE_COLOR", "HYPOTHESIS_PROFILE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/e2e/guest/run", description="pytest in a guest with cgroup v2")
    parser.add_argument("--kernel", choices=KERNELS, default="uml")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB")
    parser.add_argument("--command", action="store_true", help="the arguments are a command, not pytest's")
    options, arguments = parser.parse_known_args()
    kernel = KERNELS[options.kernel]
    command = arguments if options.command else pytest_command(arguments, kernel.DEFAULT)
    with tempfile.TemporaryDirectory(prefix="jbtest-guest-") as directory:
        share, disk = Path(directory, "share"), Path(directory, "disk")
        make_share(share, command)
        make_disk(disk)
        with kernel.command(Path(directory), share, disk, options.memory) as machine:
            timed_out = boot(machine, options.timeout)
        if timed_out:
            print(f"guest: stopped after {options.timeout:g} seconds", file=sys.stderr)
            return TIMED_OUT
        status = share / "status"
        if not status.exists():
            print("guest: ended without a result", file=sys.stderr)
            return GUEST_DIED
        return int(status.read_text())


def pytest_command(arguments: list[str], default: Sequence[str]) -> list[str]:
    chosen = any((ROOT / argument.split("::")[0]).exists() for argument in arguments)
    pytest = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-p", "no:cacheprovider"]
    return [*pytest, *arguments, *(() if chosen else default)]


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


def boot(machine: uml.Command, timeout_seconds: float) -> bool:
    """Runs the guest to its end; true when it had to be stopped. It is killed too when this process is interrupted."""
    # A session of its own: the guest's processes are in one group, and only they are.
    process = subprocess.Popen(
        machine.arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={"PATH": os.defpath, **machine.environment},
    )  # fmt: skip
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_SECONDS)
    return False


def interrupted(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    sys.exit(main())
