"""Every Common Error Scenario of the API reference, as rnx prints it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from certificates import authority, client, save
from local_system import LocalSystem, free_port, run_rnx, wait_for

pytestmark = pytest.mark.root

UNKNOWN = "f47ac10b-58cc-4372-a567-0e02b2c3d479"


def first_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first line on stderr of a call that must fail."""
    assert done.returncode != 0, done.stdout.decode()
    return done.stderr.decode().splitlines()[0]


def as_client(joblet: LocalSystem, name: str, *arguments: str, ca: Path | None = None) -> str:
    """What rnx says first when it calls with the certificate files `name`-cert.pem and `name`-key.pem."""
    base = joblet.certificates / name if "/" not in name else Path(name)
    done = run_rnx(
        "--server", joblet.address, "--cert", f"{base}-cert.pem", "--key", f"{base}-key.pem",
        "--ca", ca or joblet.certificates / "ca-cert.pem", *arguments,
    )  # fmt: skip
    return first_line(done)


def test_missing_certificate(joblet: LocalSystem, tmp_path: Path) -> None:
    assert as_client(joblet, f"{tmp_path}/absent", "job", "list") == (
        "Error: failed to extract client role: no TLS information found"
    )


def test_wrong_role(joblet: LocalSystem) -> None:
    assert as_client(joblet, "viewer-client", "job", "run", "true") == (
        "Error: role viewer is not allowed to perform operation run_job"
    )
    assert as_client(joblet, "viewer-client", "job", "stop", UNKNOWN) == (
        "Error: role viewer is not allowed to perform operation stop_job"
    )


def test_expired_certificate(joblet: LocalSystem, tmp_path: Path) -> None:
    assert as_client(
        joblet, str(save(client(authority(joblet.certificates), "admin", days=-1), tmp_path, "expired")), "job", "list"
    ) == ("Error: certificate verify failed: certificate has expired")


def test_unknown_role(joblet: LocalSystem, tmp_path: Path) -> None:
    assert as_client(
        joblet, str(save(client(authority(joblet.certificates), "intern"), tmp_path, "intern")), "job", "list"
    ) == ("Error: role intern is not allowed to perform operation list_jobs")


def test_wrong_authority(joblet: LocalSystem, tmp_path: Path) -> None:
    other = run_rnx("certs", "init", "--dir", tmp_path / "other")
    assert other.returncode == 0, other.stderr.decode()
    said = as_client(joblet, "admin-client", "job", "list", ca=tmp_path / "other/ca-cert.pem")
    assert said.startswith("Error: certificate verify failed: ")
    said = as_client(joblet, f"{tmp_path}/other/admin-client", "job", "list")
    assert said.startswith("Error: certificate verify failed: ")


def test_server_down(joblet: LocalSystem) -> None:
    port = free_port()
    said = first_line(joblet.rnx("--server", f"localhost:{port}", "job", "list"))
    assert said == f"Error: cannot reach localhost:{port}: connection refused"


@pytest.mark.parametrize("verb", ["status", "stop", "log"])
def test_job_not_found(joblet: LocalSystem, verb: str) -> None:
    assert first_line(joblet.rnx("job", verb, UNKNOWN)) == f"Error: job not found: {UNKNOWN}"


def test_job_not_running(joblet: LocalSystem) -> None:
    job_id = joblet.run("true")
    wait_for("COMPLETED", lambda: joblet.status(job_id)["Status"] == "COMPLETED")
    assert first_line(joblet.rnx("job", "stop", job_id)) == (
        f"Error: job is not running: {job_id} (current status: COMPLETED)"
    )


@pytest.mark.parametrize("character", list(";&|`$()<>\n\r"))
def test_dangerous_characters(joblet: LocalSystem, character: str) -> None:
    assert first_line(joblet.rnx("job", "run", f"ls{character}")) == (
        "Error: invalid command: command contains dangerous characters"
    )


def test_limit_above_the_system(joblet: LocalSystem) -> None:
    assert first_line(joblet.rnx("job", "run", "--max-memory=2000000000", "true")) == (
        "Error: job creation failed: maxMemory exceeds system limits"
    )


def test_error_as_json(joblet: LocalSystem) -> None:
    done = joblet.rnx("--json", "job", "status", UNKNOWN)
    assert json.loads(done.stderr) == {"code": "NOT_FOUND", "message": f"job not found: {UNKNOWN}", "details": []}


def test_missing_command_never_runs(joblet: LocalSystem) -> None:
    job_id = joblet.run("invalid-command")
    wait_for("the end", lambda: joblet.status(job_id)["Status"] == "FAILED")
    assert joblet.status(job_id)["ExitCode"] == "127"
