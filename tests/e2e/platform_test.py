"""The Platform Errors of the API reference, as rnx prints them: a whole system whose executor lacks what it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from local_system import CLEAN_ENVIRONMENT, LocalSystem, local_system, not_connected, wait_for

pytestmark = pytest.mark.root

NOBODY = 65534
AS_NOBODY = f"""
import os, sys
import joblet.executor.server
from joblet.executor.__main__ import main
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(main())
"""
ON_DARWIN = """
import platform, sys
platform.system = lambda: "Darwin"
from joblet.executor.__main__ import main
sys.exit(main())
"""


@contextmanager
def system_with(executor: Sequence[str]) -> Iterator[LocalSystem]:
    """A system set up by rnx and then started by hand, its executor by `executor`."""
    with TemporaryDirectory(prefix="jbtest") as name, ExitStack() as stack:
        directory = Path(name)
        with local_system(directory) as system:
            pass  # certificates and configuration are there now
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", directory], check=True)
        config = ["--config", str(directory / "config/joblet-config.yml")]
        for service in ("gateway", "logstore", "executor"):
            program = [*executor] if service == "executor" else [sys.executable, "-m", f"joblet.{service}"]
            with (directory / f"{service}.log").open("wb") as log:
                process = subprocess.Popen([*program, *config], env=CLEAN_ENVIRONMENT, stdout=log, stderr=log)
            stack.callback(process.wait, timeout=120)
            stack.callback(process.terminate)
        yield system


@pytest.mark.parametrize(
    ("executor", "text"),
    [
        ([sys.executable, "-c", ON_DARWIN], "job execution requires Linux server (current: darwin)"),
        ([sys.executable, "-c", AS_NOBODY], "cgroup setup failed: permission denied"),
        (
            ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "joblet.executor"],
            "failed to create isolated environment: operation not permitted",
        ),
    ],
    ids=["darwin", "no cgroups", "no namespaces"],
)
def test_what_rnx_says(clean_machine: None, executor: Sequence[str], text: str) -> None:
    with system_with(executor) as system:
        done = wait_for("an answer", lambda: answer(system))
        assert done.returncode != 0
        assert done.stderr.decode().splitlines()[0] == f"Error: {text}"


def answer(system: LocalSystem) -> subprocess.CompletedProcess[bytes] | None:
    """What rnx says once the gateway listens and the node has registered."""
    done = system.rnx("job", "run", "true")
    return None if not_connected(done.stderr.decode()) else done
