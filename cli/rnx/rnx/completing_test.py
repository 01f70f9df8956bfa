"""Completion as a shell asks for it: the words so far in variables, one answer a line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from joblet.api import job_pb2 as api
from rnx.conftest import JOB_ID, Gateway, Rnx

# rnx, but patient: on a busy machine an answer may take longer than somebody at the keyboard would wait.
PROGRAM = "from rnx import completing, main; completing.TIMEOUT_SECONDS = 60; main.main()"
PYTHONPATH = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}


def completed(gateway: Gateway, *words: str) -> list[str]:
    """What bash is offered for the last of the words."""
    line = ["rnx", *gateway.flags, *words]
    variables = {"_RNX_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**PYTHONPATH, **variables}, capture_output=True, timeout=120, check=False
    )
    assert done.stderr == b""
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines() if line]


def test_verbs_and_flags(gateway: Gateway) -> None:
    assert {"run", "wait", "delete"} <= set(completed(gateway, "job", ""))
    assert completed(gateway, "sta") == ["status"]
    assert "--secret-env" in completed(gateway, "run", "--sec")
    assert completed(gateway, "list", "--status", "run") == ["RUNNING"]


def test_ids_of_jobs(gateway: Gateway) -> None:
    gateway.pages = [api.Jobs(jobs=[api.Job(id=JOB_ID, status="RUNNING", command="sleep", args=["9"])])]
    for verb, statuses in (("status", []), ("log", []), ("stop", ["SCHEDULED", "PENDING", "INITIALIZING", "RUNNING"])):
        assert completed(gateway, verb, "f4") == [JOB_ID]
        wanted = gateway.requests.pop()
        assert (wanted.idPrefix, list(wanted.statuses), wanted.newestFirst) == ("f4", statuses, True)
    assert completed(gateway, "job", "delete", "f47ac10b", "") == [JOB_ID]
    assert completed(gateway, "status", "F/x") == []


def test_nothing_is_said_where_no_server_answers(gateway: Gateway) -> None:
    assert completed(gateway, "--server=127.0.0.1:1", "status", "f4") == []
    assert completed(gateway, "--cert=absent.pem", "status", "f4") == []


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "complete -o nosort"), ("zsh", "#compdef rnx"), ("fish", "complete")]
)
def test_scripts(rnx: Rnx, shell: str, line: str) -> None:
    result = rnx("completion", shell)
    assert result.code == 0
    assert line in result.out.decode()
    assert rnx("completion", "tcsh").code == 2


def test_bash_completes_with_the_script(gateway: Gateway, tmp_path: Path) -> None:
    """The script in a real bash, with its word splitting, asking rnx of this environment."""
    gateway.pages = [api.Jobs(jobs=[api.Job(id=JOB_ID, status="RUNNING", command="true")])]
    flags = " ".join(gateway.flags)
    (tmp_path / "rnx").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}" "$@"\n')
    (tmp_path / "rnx").chmod(0o755)
    script = f"""
eval "$(rnx completion bash)"
COMP_WORDS=(rnx {flags} stop f47) COMP_CWORD=6
_rnx_completion rnx
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={**PYTHONPATH, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [JOB_ID], done.stderr
