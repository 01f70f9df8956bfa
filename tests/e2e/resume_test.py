"""Fetching outputs goes on where it broke off, byte for byte, when services are killed in the middle of it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from files_test import MEGABYTE, size
from local_system import CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE_BYTES = 200 * MEGABYTE
MAKE = (
    "head -c 200M /dev/urandom > big; mkdir d; echo small > d/first; mv big d; echo small > d/last; sha256sum < d/big"
)
READ_BYTES = 20 * MEGABYTE  # then pipe, grpc and kernel hold back the rest
LOST = "Connection lost; going on where it broke off ..."


def made(system: LocalSystem) -> tuple[str, str]:
    """A job that has left a file of 200 MiB between two small ones: its id, and the file's digest."""
    job_id = system.run("--output=d", "--max-memory=512", "sh", "-c", MAKE)
    return job_id, system.log(job_id).split()[0].decode()


@contextmanager
def getting(system: LocalSystem, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(RNX), "--config", str(system.directory / "rnx-config.yml"), "job", "get", *map(str, arguments)]
    with subprocess.Popen(command, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as get:
        try:
            yield get
        finally:
            get.kill()


@pytest.mark.parametrize("service", ["gateway", "executor"])
def test_one_file_to_standard_output(own_joblet: LocalSystem, service: str) -> None:
    job_id, digest = made(own_joblet)
    received = hashlib.sha256()
    size = 0
    with getting(own_joblet, job_id, "d/big", "-o", "-") as get:
        assert get.stdout is not None
        out = get.stdout.fileno()
        for until in (READ_BYTES, 5 * READ_BYTES):
            while size < until:
                piece = os.read(out, MEGABYTE)
                assert piece, "it ended too early"
                received.update(piece)
                size += len(piece)
            own_joblet.kill(service)
        while piece := os.read(out, MEGABYTE):
            received.update(piece)
            size += len(piece)
        assert get.stderr is not None
        said = get.stderr.read().decode()
    assert get.returncode == 0, said
    assert (size, received.hexdigest()) == (SIZE_BYTES, digest)
    assert said.splitlines() == [LOST, LOST]


def test_a_directory(own_joblet: LocalSystem, tmp_path: Path) -> None:
    job_id, digest = made(own_joblet)
    part = tmp_path / "here/d/big.rnx-part"
    with getting(own_joblet, job_id, "-o", tmp_path / "here") as get:
        wait_for("the large file", lambda: size(part))
        os.kill(get.pid, signal.SIGSTOP)
        own_joblet.kill("gateway")
        os.kill(get.pid, signal.SIGCONT)
        _, said = get.communicate(timeout=300)
    assert get.returncode == 0, said.decode()
    assert LOST in said.decode()
    with (tmp_path / "here/d/big").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    assert [(tmp_path / "here/d" / name).read_text() for name in ("first", "last")] == ["small\n", "small\n"]
    assert sorted(os.listdir(tmp_path / "here/d")) == ["big", "first", "last"]
