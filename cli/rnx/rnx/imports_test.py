"""What rnx may import, and when: it runs everywhere, and asking for help is fast."""

import json
import os
import pkgutil
import subprocess
import sys

import pytest

import rnx

HEAVY = {
    "grpc",
    "google",
    "yaml",
    "cryptography",
    "prometheus_client",
    "sqlalchemy",
    "asyncio",
    "ssl",
    "urllib.request",
}
LINUX_ONLY = ["fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix_ipc", "spwd", "curses"]
LINUX_ONLY_NAMES = {
    "signal": ["SIGHUP", "SIGKILL", "SIGCHLD", "SIGUSR1", "SIGALRM", "pthread_sigmask", "sigtimedwait"],
    "select": ["poll", "epoll"],
    "os": ["geteuid", "getuid", "fchmod", "POSIX_SPAWN_OPEN", "pidfd_open", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY"],
}
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(rnx.__path__, "rnx.")
    if not module.name.endswith(("_test", "conftest", "__main__"))
)


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["job", "run", "--help"], ["local", "--help"], ["certs", "--help"],
                                       ["version"], ["job", "bogus"], ["run", "--max-cpu=abc", "x"]])  # fmt: skip
def test_heavy_modules_stay_out(arguments: list[str]) -> None:
    program = (
        "import sys, json\nfrom rnx import main\n"
        f"main.run({arguments!r})\nsys.stdout.flush()\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    )
    loaded = set(json.loads(python(program).splitlines()[-1]))
    assert not {name for name in loaded if name in HEAVY or name.split(".")[0] in HEAVY}


def test_the_supervisor_stays_small() -> None:
    loaded = set(json.loads(python("import rnx.local.supervisor, sys, json; print(json.dumps(sorted(sys.modules)))")))
    own = {name for name in loaded if name.split(".")[0] in ("rnx", "joblet", "click")}
    assert own == {"rnx", "rnx.local", "rnx.local.processes", "rnx.local.supervisor"}
    program = "import sys; old = set(sys.modules); import rnx.local.supervisor; print(*(set(sys.modules) - old))"
    standard = "select signal enum functools operator collections keyword reprlib types itertools math"
    native = "_signal _operator _functools _collections _enum"
    assert set(python(program).split()) <= {*own, *standard.split(), *native.split()}


def test_nothing_of_linux_is_needed_to_import_any_module() -> None:
    """As on Windows, which lacks these modules and names (library reference: os, signal, select)."""
    program = f"""
import importlib, os, select, signal, subprocess, sys
for module, names in {LINUX_ONLY_NAMES!r}.items():
    for name in names:
        delattr(sys.modules[module], name)
for name in {LINUX_ONLY!r}:
    sys.modules[name] = None  # an import raises ModuleNotFoundError
for name in {MODULES!r}:
    importlib.import_module(name)
print("imported")
"""
    assert python(program) == "imported\n"


def test_every_module_was_tried() -> None:
    assert {"rnx.main", "rnx.client", "rnx.diagnose", "rnx.commands.local", "rnx.local.supervisor"} <= set(MODULES)


def test_no_time_is_spent_on_looking_for_garbage() -> None:
    """Neither while everything for a call is imported, nor when Python ends, which looks at all that is not frozen."""
    program = """
import atexit, gc
from rnx import main
def collections():
    return sum(generation["collections"] for generation in gc.get_stats())
def report():
    print(collections() - before, len(gc.get_objects()) < 1000, gc.isenabled())
def run(arguments):
    import rnx.client, rnx.commands.listing, rnx.output
    return 0
main.run = run
atexit.register(report)
before = collections()
main.main()
"""
    assert python(program).split() == ["0", "True", "True"]
