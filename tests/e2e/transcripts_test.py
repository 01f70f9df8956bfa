"""Every transcript of the API reference's methods and CLI chapter, replayed with rnx."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gate import gate
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, RNX, LocalSystem, run_rnx, wait_for
from transcript import assert_begins_like, neutral

pytestmark = pytest.mark.root

LOOP = """\
while not os.path.exists("/tmp/finish"):
    time.sleep(0.02)
"""
SCRIPT = f"""\
import os, time
print("Starting script...", flush=True)
print("Processing item 1", flush=True)
print("Processing item 2", flush=True)
{LOOP}
print("Script completed successfully", flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script.py that runs until it is stopped."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def start_script(joblet: LocalSystem, script: Path) -> tuple[str, str]:
    """The id of a running `python3 script.py` and what run printed."""
    printed = joblet.output(
        "job", "run", "--max-cpu=50", "--max-memory=512", "--upload", script, "python3", "script.py"
    )
    job_id = printed.splitlines()[1].removeprefix("ID: ")
    wait_for("RUNNING", lambda: joblet.status(job_id)["Status"] == "RUNNING")
    return job_id, printed


def test_run_status_stop(joblet: LocalSystem, script: Path) -> None:
    job_id, printed = start_script(joblet, script)
    assert_begins_like(
        printed,
        "Job started:\n"
        "ID: f47ac10b-58cc-4372-a567-0e02b2c3d479\n"
        "Command: python3 script.py\n"
        "Status: INITIALIZING\n"
        "StartTime: 2024-01-15T10:30:00Z\n"
        "MaxCPU: 50\n"
        "MaxMemory: 512\n"
        "Network: host (shared with system)\n",
    )
    assert_begins_like(
        joblet.output("job", "status", job_id),
        "Id: f47ac10b-58cc-4372-a567-0e02b2c3d479\n"
        "Command: python3 script.py\n"
        "Status: RUNNING\n"
        "Started At: 2024-01-15T10:30:00Z\n"
        "Ended At: \n"
        "MaxCPU: 50\n"
        "MaxMemory: 512\n"
        "MaxIOBPS: 0\n"
        "ExitCode: 0\n",
    )
    assert_begins_like(
        joblet.output("job", "stop", job_id),
        "Job stopped successfully:\n"
        "ID: f47ac10b-58cc-4372-a567-0e02b2c3d479\n"
        "Status: STOPPED\n"
        "ExitCode: -1\n"
        "EndTime: 2024-01-15T10:45:00Z\n",
    )


def test_list(joblet: LocalSystem, script: Path) -> None:
    completed = joblet.run("echo", "hello")
    running, _ = start_script(joblet, script)
    failed = joblet.run("invalid-command")
    wait_for("COMPLETED", lambda: joblet.status(completed)["Status"] == "COMPLETED")
    wait_for("FAILED", lambda: joblet.status(failed)["Status"] == "FAILED")
    ours = [
        line for line in joblet.output("job", "list").splitlines() if line.split()[0] in (completed, running, failed)
    ]
    assert neutral("\n".join(ours)) == neutral(
        "f47ac10b-58cc-4372-a567-0e02b2c3d479 COMPLETED StartTime: 2024-01-15T10:30:00Z Command: echo hello\n"
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8 RUNNING StartTime: 2024-01-15T10:35:00Z Command: python3 script.py\n"
        "6ba7b811-9dad-11d1-80b4-00c04fd430c8 FAILED StartTime: 2024-01-15T10:40:00Z Command: invalid-command\n"
    )
    joblet.output("job", "stop", running)


def test_log_streams_history_then_live_output(joblet: LocalSystem, tmp_path: Path) -> None:
    with gate() as end:
        script = tmp_path / "script.py"
        wait = f'import socket; socket.create_connection(("127.0.0.1", {end.port})).recv(1)'
        script.write_text(SCRIPT.replace(LOOP, wait))
        job_id, _ = start_script(joblet, script)
        end.wait_for()
        with subprocess.Popen(
            [RNX, "--config", joblet.directory / "rnx-config.yml", "job", "log", job_id],
            env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as follower:  # fmt: skip
            assert follower.stdout is not None
            history = [follower.stdout.readline() for _ in range(3)]
            end.open()
            live, said = follower.communicate()
    assert said.decode() == f"Logs for job {job_id} (Press Ctrl+C to exit if streaming):\n"
    assert history == [b"Starting script...\n", b"Processing item 1\n", b"Processing item 2\n"]
    assert live == b"Script completed successfully\n"
    assert joblet.status(job_id)["Status"] == "COMPLETED"


def test_log_by_short_id_through_a_filter(joblet: LocalSystem) -> None:
    job_id = joblet.run("sh", "-c", "echo fine; echo ERROR one; echo fine; echo ERROR two")
    command = f"{RNX} --config {joblet.directory}/rnx-config.yml job log {job_id[:8]} | grep ERROR"
    done = subprocess.run(
        ["sh", "-c", command], env=CLEAN_ENVIRONMENT, capture_output=True, check=True, timeout=CALL_SECONDS
    )
    assert done.stdout == b"ERROR one\nERROR two\n"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["echo", "hello world"], "echo hello world"),
        (["--max-cpu=50", "python3", "script.py"], "python3 script.py"),
        (["--max-memory=1024", "java", "-jar", "app.jar"], "java -jar app.jar"),
        (["bash", "-c", "sleep 0.1 && echo done"], "bash -c sleep 0.1 && echo done"),
    ],
)
def test_run_examples(joblet: LocalSystem, arguments: list[str], command: str) -> None:
    printed = joblet.output("job", "run", *arguments).splitlines()
    assert printed[0] == "Job started:"
    assert printed[2:4] == [f"Command: {command}", "Status: INITIALIZING"]


def test_run_without_the_noun_and_with_named_certificates(joblet: LocalSystem) -> None:
    printed = run_rnx(
        f"--server={joblet.address}",
        f"--cert={joblet.certificates}/admin-client-cert.pem",
        f"--key={joblet.certificates}/admin-client-key.pem",
        f"--ca={joblet.certificates}/ca-cert.pem",
        "run", "echo", "remote execution on Linux",
    )  # fmt: skip
    assert printed.returncode == 0, printed.stderr.decode()
    assert b"Command: echo remote execution on Linux\n" in printed.stdout


def test_environment_variables(joblet: LocalSystem) -> None:
    done = run_rnx(
        "job", "run", "python3", "script.py",
        environment={
            "JOBLET_SERVER": joblet.address,
            "JOBLET_CERT_PATH": f"{joblet.certificates}/admin-client-cert.pem",
            "JOBLET_KEY_PATH": f"{joblet.certificates}/admin-client-key.pem",
            "JOBLET_CA_PATH": f"{joblet.certificates}/ca-cert.pem",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()


def test_defaults_are_the_configured_ones(joblet: LocalSystem) -> None:
    status = joblet.status(joblet.run("true"))
    assert (status["MaxCPU"], status["MaxMemory"], status["MaxIOBPS"]) == ("100", "512", "0")
