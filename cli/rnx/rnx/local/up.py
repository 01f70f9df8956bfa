"""`rnx local up`: one supervisor per directory, started in the foreground or detached."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from joblet.common.errors import AlreadyExists, FailedPrecondition
from rnx.local import down, executables, layout, processes, ready, supervisor
from rnx.local.layout import Layout, Ports

# The supervisor is started without site-packages: less memory, and nothing of ours but two modules. The words after it
# are for people who read `ps`.
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rnx.local.supervisor import main; sys.exit(main())"
_BOOT += "  # rnx local"


def platform() -> str:
    """The name of this system as `uname` has it, in lower case."""
    return {"win32": "windows"}.get(sys.platform, sys.platform)


def start(where: Layout, port: int | None, *, detach: bool) -> Ports:
    """Starts everything. Detached: returns once it is ready. In the foreground: does not return.

    Raises AlreadyExists if it is running already or the port is taken; FailedPrecondition if it cannot run here.
    """
    if platform() != "linux":
        raise FailedPrecondition(f"job execution requires Linux server (current: {platform()})")
    if os.geteuid() != 0:
        raise FailedPrecondition(
            "rnx local up must be run by root", hint="jobs get namespaces and cgroups of their own"
        )
    commands = executables.find()
    lock = down.try_lock(where) if where.run.exists() else None
    if lock is None and where.run.exists():
        raise AlreadyExists(
            f"already running in {where.directory}{_by(where)}", hint="see rnx local status, rnx local down"
        )
    if lock is not None:
        down.end_leftovers(where)  # of a supervisor that was killed: services, their ports, jobs
    chosen = layout.choose_ports(where, port)
    layout.prepare(where, chosen)
    lock = lock if lock is not None else down.try_lock(where)
    if lock is None:
        raise AlreadyExists(f"already running in {where.directory}{_by(where)}")
    os.set_inheritable(lock, True)
    command = _command(where, commands, lock, supervisor.DETACHED if detach else supervisor.FOREGROUND)
    if not detach:
        _become(command)
    _detached(where, chosen, command, lock)
    return chosen


def _command(where: Layout, commands: dict[str, list[str]], lock: int, mode: str) -> list[str]:
    root = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-S", "-E", "-s", "-c", _BOOT, root, mode, str(lock), str(where.directory)]
    words += executables.rnx()
    for name, service in commands.items():
        words += ["--", name, *service, "--config", str(where.config)]
    return words


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


def _detached(where: Layout, chosen: Ports, command: list[str], lock: int) -> None:
    with where.log("supervisor").open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock,), start_new_session=True
        )
    os.close(lock)
    try:
        ready.wait(where, chosen, lambda: child.poll() is None)
    except BaseException:  # Ctrl+C too: half a system is none
        down.stop(where)
        raise
    child.returncode = 0  # it goes on without us; nobody waits for it


def _by(where: Layout) -> str:
    found = processes.read(where.pid_file("supervisor"))
    return f" (supervisor {found[0].split()[0]})" if found else ""
