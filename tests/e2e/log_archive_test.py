"""Logs are copied to an S3 server, signed with keys from a file, and read from there when the node has lost its own."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_system import LocalSystem, wait_for
from logstore_settings import logstore_metrics, set_logstore
from s3_server import BUCKET, REGION, S3Server, s3_server

pytestmark = [pytest.mark.root, pytest.mark.slow]

MIB = 1 << 20
SIZE = 7 * MIB  # more than one part of an upload
PROGRAM = f"import os, random; os.write(2, b'begin\\n'); print(random.Random(9).randbytes({SIZE}).hex())"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def archive(server: S3Server, credentials: Path) -> dict[str, str]:
    return {
        "url": f"s3://{BUCKET}/logs",
        "endpoint": server.endpoint,
        "region": REGION,
        "credentialsFile": str(credentials),
    }


def test_a_log_is_readable_after_the_nodes_directory_was_deleted(
    own_joblet: LocalSystem, server: S3Server, tmp_path: Path
) -> None:
    credentials = server.write_credentials(tmp_path / "credentials")
    set_logstore(own_joblet, sealAfter="0s", archive=archive(server, credentials))
    job_id = own_joblet.run("python3", "-c", PROGRAM)
    whole = own_joblet.log(job_id)
    wanted = b"begin\n" + random.Random(9).randbytes(SIZE).hex().encode() + b"\n"
    assert hashlib.sha256(whole).digest() == hashlib.sha256(wanted).digest()
    wait_for("the copy", lambda: f"logs/{job_id}/sealed" in server.objects())
    wait_for("the mark", lambda: logstore_metrics(own_joblet)["joblet_log_archived_total"] == 1)
    os.kill(own_joblet.pids()["logstore"], signal.SIGSTOP)  # so that it puts nothing there meanwhile
    shutil.rmtree(own_joblet.directory / "state/logstore")
    own_joblet.kill("logstore")
    assert own_joblet.log(job_id) == wanted
    assert own_joblet.output("job", "log", "--no-follow", "-n", "1", job_id)[-5:-1].encode() == wanted[-5:-1]
    own_joblet.output("job", "delete", job_id)
    wait_for("the copy's end", lambda: f"logs/{job_id}/sealed" not in server.objects())
    for line in (own_joblet.directory / "logs/logstore.log").read_text().splitlines():
        assert server.secret not in line
    command_line = Path(f"/proc/{own_joblet.pids()['logstore']}/cmdline").read_bytes()
    assert server.secret.encode() not in command_line


def test_a_wrong_key_is_refused_told_and_tried_again(own_joblet: LocalSystem, server: S3Server, tmp_path: Path) -> None:
    wrong = S3Server(server.endpoint, server.key_id, "x" * 40)
    set_logstore(own_joblet, sealAfter="0s", archive=archive(server, wrong.write_credentials(tmp_path / "wrong")))
    job_id = own_joblet.run("echo", "hello")
    wait_for("failures", lambda: logstore_metrics(own_joblet)["joblet_log_archive_failures_total"] >= 2)
    assert f"logs/{job_id}/sealed" not in server.objects()
    assert own_joblet.log(job_id) == b"hello\n"
    right = server.write_credentials(tmp_path / "right")
    set_logstore(own_joblet, archive=archive(server, right))
    wait_for("the copy", lambda: f"logs/{job_id}/sealed" in server.objects())
