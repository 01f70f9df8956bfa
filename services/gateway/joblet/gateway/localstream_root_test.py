"""A socket that somebody else listens on is not asked for output."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from joblet.gateway.localstream_test import DATA, read
from joblet.gateway.logs_test import running_job
from joblet.gateway.testing import world

pytestmark = pytest.mark.root

NOBODY = 65534
# The kernel notes who listens when it begins to.
LISTENER = """
import os, socket, sys
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.bind(sys.argv[1])
os.setresuid(*[int(sys.argv[2])] * 3)
control.listen()
print("listening", flush=True)
peer, _ = control.accept()
print(peer.recv(4096), flush=True)
"""


@contextmanager
def listening(command: list[str]) -> Iterator[IO[bytes]]:
    """What the listener says it has heard."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == b"listening\n"
            yield listener.stdout
        finally:
            listener.kill()


def test_a_listener_of_another_uid_hears_nothing(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, DATA)
            command = [sys.executable, "-c", LISTENER, str(it.config.gateway.logstore_socket), str(NOBODY)]
            with listening(command) as heard:
                assert await read(it, job.spec.job_id) == DATA
                return heard.readline()

    assert asyncio.run(scenario()) == b"b''\n"
