"""Output and jobs are the same whether services find each other on one machine or talk as two machines do."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from local_system import LocalSystem, wait_for
from logstore_settings import logstore_metrics
from random_output import MEBIBYTE, PROGRAM, digest
from service_settings import set_service

pytestmark = pytest.mark.root

SIZE = 20 * MEBIBYTE


def read(system: LocalSystem, job_id: str) -> float:
    """Checks a job's output; how many readers have had theirs over a socket of the machine."""
    output = system.log(job_id)
    assert (len(output), hashlib.sha256(output).hexdigest()) == (SIZE, digest(SIZE))
    return logstore_metrics(system)["joblet_log_local_streams_total"]


def test_a_log_read_on_one_machine_and_as_from_another(own_joblet: LocalSystem, tmp_path: Path) -> None:
    job_id = own_joblet.run("python3", "-c", PROGRAM, str(SIZE), "0")
    assert read(own_joblet, job_id) == 1
    set_service(own_joblet, "gateway", logstoreSocket=str(tmp_path / "none.sock"))
    assert read(own_joblet, job_id) == 1
    assert read(own_joblet, own_joblet.run("python3", "-c", PROGRAM, str(SIZE), "0")) == 1


def test_jobs_on_one_machine_and_as_on_another(own_joblet: LocalSystem, tmp_path: Path) -> None:
    log = own_joblet.directory / "logs/gateway.log"
    assert own_joblet.output("job", "run", "--follow", "echo", "here") == "here\n"
    assert ways(log)[-1] == "socket"
    set_service(own_joblet, "gateway", executorSocket=str(tmp_path / "none.sock"))
    assert wait_for("a job", lambda: own_joblet.rnx("job", "run", "--follow", "echo", "there").stdout) == b"there\n"
    assert ways(log)[-1] == "TLS"


def ways(log: Path) -> list[str]:
    return re.findall(r"following node .* by=(\w+)", log.read_text())
