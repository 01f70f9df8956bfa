"""kill -9 of whoever has to do with a job's output, at random moments: the reader gets every byte once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import threading

import proofs
import pytest
from local_system import CLEAN_ENVIRONMENT, RNX, LocalSystem, wait_for
from random_output import MEBIBYTE, PROGRAM, digest

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = proofs.size(64, 1024) * MEBIBYTE
SECONDS = proofs.size(14, 780)  # that the job takes for all but the last MiB
KILLS = proofs.size(6, 100)
SERVICES = ("logstore", "executor", "gateway")


def kill_services(joblet: LocalSystem, killed: set[int], enough: threading.Event) -> None:
    """Kills one of the services at random moments, until there were KILLS; or it is enough, for something has failed.

    Only one that serves: otherwise a gateway that takes long to start would never be there, and rnx give up.
    """
    moments = random.Random(3)
    while len(killed) < KILLS and not enough.wait(moments.uniform(0, SECONDS / KILLS / 5)):
        pid = joblet.serving().get(moments.choice(SERVICES))
        if pid is not None and pid not in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)


def let_go(server: socket.socket, enough: threading.Event) -> None:
    """Lets the job print its last MiB, when it has come so far."""
    server.settimeout(1)
    while not enough.is_set():
        with contextlib.suppress(TimeoutError):
            server.accept()[0].close()
            return


def kill_and_let_go(joblet: LocalSystem, killed: set[int], server: socket.socket, enough: threading.Event) -> None:
    kill_services(joblet, killed, enough)
    let_go(server, enough)


def test_kills_of_services_cost_the_reader_no_byte(own_joblet: LocalSystem) -> None:
    # However slowly a busy machine starts what was killed, the job does not end before all the kills.
    server = socket.create_server(("127.0.0.1", 0))
    job_id = own_joblet.run("python3", "-c", PROGRAM, str(SIZE), str(SECONDS), str(server.getsockname()[1]))
    killed: set[int] = set()
    enough = threading.Event()
    killer = threading.Thread(target=kill_and_let_go, args=(own_joblet, killed, server, enough))
    received, result = 0, hashlib.sha256()
    # An executor killed in the middle of a launch ends that job before it has printed anything; and rnx does not wait
    # for a gateway that it has never reached.
    wait_for("RUNNING", lambda: own_joblet.status(job_id)["Status"] == "RUNNING")
    with subprocess.Popen(
        [RNX, "--config", own_joblet.directory / "rnx-config.yml", "job", "log", job_id],
        env=CLEAN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        try:
            while data := reader.stdout.read1(MEBIBYTE):  # type: ignore[attr-defined]
                if not received:
                    killer.start()
                received += len(data)
                result.update(data)
            said = reader.stderr.read().decode()
        finally:
            enough.set()
            reader.kill()
            if killer.ident is not None:
                killer.join()
            server.close()
    assert (received, result.hexdigest()) == (SIZE, digest(SIZE)), said
    assert len(killed) == KILLS
    wait_for("the job's end", lambda: b"Status: COMPLETED" in own_joblet.rnx("status", job_id).stdout)
    print(f"{len(killed)} kills, {said.count('Connection lost')} connections lost")


# Every byte of a writer tells its place; its parent kills it in the middle of a write and then says how many bytes the
# kernel had taken from it, as the writer noted after each write.
WRITER = f"""
import mmap, os, random, signal, time
pattern = bytes(range(250)) * 9000
moments = random.Random(4)
for _ in range({proofs.size(20, 200)}):
    noted = mmap.mmap(-1, 8)
    writer = os.fork()
    if writer == 0:
        total = 0
        while True:
            total += os.write(1, pattern[total % 250 :][: 1 << 20])
            noted[:] = total.to_bytes(8, "little")
    time.sleep(moments.uniform(0, 0.05))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    os.write(1, b"\\xff%020d" % int.from_bytes(noted, "little"))
"""


def test_a_writer_killed_in_the_middle_of_a_write_loses_nothing_it_has_written(joblet: LocalSystem) -> None:
    job_id = joblet.run("python3", "-c", WRITER)
    output = joblet.log(job_id)
    pattern = bytes(range(250))
    rounds = output.split(b"\xff")
    assert len(rounds) == 1 + proofs.size(20, 200)
    cut_in_two = 0
    for number, marked in enumerate(rounds[1:], 1):
        written = rounds[number - 1][20 if number > 1 else 0 :]
        noted = int(marked[:20])
        assert written == (pattern * (len(written) // 250 + 1))[: len(written)]
        assert noted <= len(written) <= noted + (1 << 20)
        cut_in_two += len(written) > noted
    assert cut_in_two, "no write was cut in two"
    assert joblet.status(job_id)["Status"] == "COMPLETED"
