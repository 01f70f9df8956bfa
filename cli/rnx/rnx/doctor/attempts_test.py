"""In a process of their own: forking wants a single thread, which a test runner need not have."""

import os
import subprocess
import sys

import pytest

from rnx.doctor.attempts import NO_ERRNO

PREFIX = "import errno, os, signal; from rnx.doctor.attempts import attempt\n"


def run(work: str, then: str) -> str:
    program = f"{PREFIX}def work():\n    {work}\n{then}"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(
    ("work", "found"),
    [
        ("return 'works'", "0 works"),
        ("raise OSError(errno.EPERM, 'Operation not permitted', 'unshare')", "1 unshare: operation not permitted"),
        ("os.kill(os.getpid(), signal.SIGSYS)", f"{NO_ERRNO} the attempt was ended by SIGSYS"),
        ("signal.alarm(1); signal.pause()", f"{NO_ERRNO} the attempt was ended by SIGALRM"),
        ("raise ValueError('a fault of ours')", f"{NO_ERRNO} the attempt failed"),
    ],
)
def test_what_a_child_did(work: str, found: str) -> None:
    assert run(work, "found = attempt(work); print(found.errno, found.text)") == f"{found}\n"


def test_nothing_of_the_child_stays() -> None:
    then = "attempt(work)\ntry:\n    os.wait()\nexcept ChildProcessError:\n    print('none')"
    assert run("return 'works'", then) == "none\n"
