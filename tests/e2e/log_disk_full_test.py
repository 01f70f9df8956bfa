"""A job prints far more than the logs' filesystem holds: it waits for room, retention makes some, nothing is lost.

JOBLET_FULL_DISK_MIB=1024 for the size that was promised; the default is quicker.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from local_system import CALL_SECONDS, CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for
from logstore_settings import logstore_metrics, set_logstore

pytestmark = [pytest.mark.root, pytest.mark.slow]

MIB = 1 << 20
DISK_MIB = 64
READERS = 3
OUTPUT_MIB = int(os.environ.get("JOBLET_FULL_DISK_MIB", "160"))
# Begins when somebody reads: what nobody has asked for yet is nobody's to wait for.
PROGRAM = f"""
import os, random, socket, sys
print("ready", flush=True)
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(1)
block = random.Random(5).randbytes({MIB})
for number in range({OUTPUT_MIB}):
    part = block[number:] + block[:number]
    while part:
        part = part[os.write(1, part):]
"""


def expected() -> str:
    digest, block = hashlib.sha256(b"ready\n"), random.Random(5).randbytes(MIB)
    for number in range(OUTPUT_MIB):
        digest.update(block[number:] + block[:number])
    return digest.hexdigest()


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "jbtest", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def following(system: LocalSystem, job_id: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(RNX), "--config", str(system.directory / "rnx-config.yml"), "job", "log", job_id]
    process = subprocess.Popen(command, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_byte(reader: subprocess.Popen[bytes]) -> bytes:
    assert reader.stdout is not None
    return reader.stdout.read(1)


def rest(reader: subprocess.Popen[bytes], begun: bytes, progress: threading.Event) -> str:
    """The digest of all that the reader gets; `progress` is set when that is more than the disk holds."""
    assert reader.stdout is not None
    digest, size = hashlib.sha256(begun), 0
    while data := reader.stdout.read(MIB):
        digest.update(data)
        size += len(data)
        if size > DISK_MIB * MIB:
            progress.set()
    assert reader.wait(CALL_SECONDS) == 0
    return digest.hexdigest()


def test_a_gigabyte_through_a_disk_of_64_mib(own_joblet: LocalSystem, tmp_path: Path) -> None:
    """Three readers, and the logstore is killed in the middle."""
    retention = {"maxJobSizeMb": 16, "minFreeMb": 0, "readerHold": "60s"}
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk"))
        set_logstore(own_joblet, directory=str(disk), retention=retention)
        gate = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        job_id = own_joblet.run("python3", "-c", PROGRAM, str(gate.getsockname()[1]))
        readers = [stack.enter_context(following(own_joblet, job_id)) for _ in range(READERS)]
        threads = stack.enter_context(ThreadPoolExecutor(READERS))
        begun = [first_byte(reader) for reader in readers]
        go, _ = gate.accept()
        with go:
            go.send(b"x")
        progress = threading.Event()
        digests = [threads.submit(rest, reader, byte, progress) for reader, byte in zip(readers, begun, strict=True)]
        assert progress.wait(CALL_SECONDS)
        own_joblet.kill("logstore")
        assert {digest.result() for digest in digests} == {expected()}
        assert own_joblet.status(job_id)["Status"] == "COMPLETED"


def test_a_full_disk_stops_the_job_and_room_lets_it_go_on(own_joblet: LocalSystem, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        set_logstore(own_joblet, directory=str(disk), retention={"minFreeMb": 0})
        filler = disk / "filler"
        filler.write_bytes(bytes(48 * MIB))
        size = 32 * MIB
        job_id = own_joblet.run("sh", "-c", f"head -c {size} /dev/zero; echo done")
        wait_for("the pause is told", lambda: logstore_metrics(own_joblet)["joblet_log_writers_waiting"] == 1)
        assert own_joblet.status(job_id)["Status"] == "RUNNING"
        logged = own_joblet.directory / "logs/logstore.log"
        wait_for("it is logged, too", lambda: b"disk full: jobs wait to write" in logged.read_bytes())
        filler.unlink()
        assert own_joblet.log(job_id) == bytes(size) + b"done\n"
        assert logstore_metrics(own_joblet)["joblet_log_pauses_total"] >= 1
        wait_for("nobody waits", lambda: logstore_metrics(own_joblet)["joblet_log_writers_waiting"] == 0)


def test_a_job_is_stopped_while_the_disk_is_full(own_joblet: LocalSystem, tmp_path: Path) -> None:
    """Its init, which waits for room, is killed, and the log ends with what was written."""
    with small_disk(tmp_path / "disk") as disk:
        set_logstore(own_joblet, directory=str(disk), retention={"minFreeMb": 0})
        filler = disk / "filler"
        filler.write_bytes(bytes(48 * MIB))
        job_id = own_joblet.run("sh", "-c", f"echo begin; head -c {32 * MIB} /dev/zero")
        wait_for("the pause is told", lambda: logstore_metrics(own_joblet)["joblet_log_writers_waiting"] == 1)
        with following(own_joblet, job_id) as reader:
            own_joblet.output("job", "stop", job_id)
            assert own_joblet.status(job_id)["Status"] == "STOPPED"
            said = (own_joblet.directory / "logs/executor.log").read_bytes()
            assert b"init did not end after TERM and is killed" in said
            filler.unlink()
            assert reader.stdout is not None
            followed = reader.stdout.read()
            assert reader.wait(CALL_SECONDS) == 0
        written = (disk / job_id / "output").read_bytes()
        assert len(written) >= 8 * MIB
        assert followed == written == b"begin\n" + bytes(len(written) - len(b"begin\n"))
        assert own_joblet.log(job_id) == written
        wait_for("nobody waits", lambda: logstore_metrics(own_joblet)["joblet_log_writers_waiting"] == 0)
