"""`bash .ci/run` that is ended before its time takes along what it has started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from local_system import CALL_SECONDS, REPOSITORY, wait_for

pytestmark = pytest.mark.root

# In the place of the real one: tests, and what runs beside them, begin and do not end, nor do they for a TERM.
MAKEFILE = """
demo setup proto lint:
	@true
test test-cgroup2:
	@trap "" TERM; touch $@.begun; while :; do sleep 1; done
"""


def processes_in(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(directory):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_it_started_goes_with_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    # What a shell runs in the background ignores SIGINT, and so does what that starts; bash cannot undo it.
    command = ["env", "--default-signal=INT", "bash", ".ci/run"]
    run = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for target in ("test", "test-cgroup2"):
            wait_for(f"make {target}", (tmp_path / f"{target}.begun").exists)
        run.send_signal(number)
        run.wait(CALL_SECONDS)
        wait_for("nothing left", lambda: not processes_in(tmp_path))
        assert run.returncode == 128 + number
    finally:
        run.kill()
        run.wait()
        for pid in processes_in(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
