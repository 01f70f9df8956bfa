"""kill -9 of the executor when it has accepted a job and not yet told it to go: the job runs all the same, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from inits import all_prepared
from local_system import LocalSystem, wait_for

pytestmark = [pytest.mark.root]


@contextmanager
def halted_inits(executor: int) -> Iterator[None]:
    """The executor's inits that wait for a job stand still in the block, so that none of them parks its command."""
    pids = all_prepared(executor, networks=1)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_job_that_was_accepted_and_never_told_to_go_is_ordered_again(own_joblet: LocalSystem, tmp_path: Path) -> None:
    first = own_joblet.run("--network=none", "true")  # of this network inits are prepared from now on
    wait_for("the end of the first job", lambda: own_joblet.status(first)["Status"] == "COMPLETED")
    upload = tmp_path / "greeting"
    upload.write_text("hello")
    executor = own_joblet.pids()["executor"]
    with halted_inits(executor):
        job_id = own_joblet.run("--network=none", f"--upload={upload}", "cat", "greeting")
        assert own_joblet.status(job_id)["Status"] == "INITIALIZING"
        os.kill(executor, signal.SIGKILL)
    assert own_joblet.log(job_id) == b"hello"
    assert own_joblet.status(job_id)["Status"] == "COMPLETED"


def test_a_job_that_was_accepted_and_is_stopped_before_it_is_ordered_again(own_joblet: LocalSystem) -> None:
    first = own_joblet.run("--network=none", "true")
    wait_for("the end of the first job", lambda: own_joblet.status(first)["Status"] == "COMPLETED")
    with halted_inits(own_joblet.pids()["executor"]):
        job_id = own_joblet.run("--network=none", "sleep", "1000")
        os.kill(own_joblet.pids()["executor"], signal.SIGKILL)

    def stopped() -> bool:  # the executor may take longer to come back than a stop waits for it
        own_joblet.rnx("job", "stop", job_id)
        return own_joblet.status(job_id)["Status"] == "STOPPED"

    wait_for("STOPPED", stopped)
