"""Stubs generated from the text of the API reference alone can call the system, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import spec_stubs
from local_system import LocalSystem

pytestmark = pytest.mark.root

UNKNOWN = "f47ac10b-58cc-4372-a567-0e02b2c3d479"


def test_a_client_of_the_reference_alone(joblet: LocalSystem, tmp_path: Path) -> None:
    spec_stubs.generate(tmp_path)
    files = [joblet.certificates / name for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem")]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("spec_client.py"), joblet.address, *files],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2, "JobletService and JobService"
    for seen in answers:
        assert seen["started"] == ["INITIALIZING", 50, 512]
        assert seen["output"] == "one\ntwo\n"
        assert seen["ended"] == ["FAILED", 3, True, True, True]
        assert seen["listed"] == [["sh", ["-c", "echo one; echo two >&2; exit 3"], "FAILED", 3]]
        assert seen["stopped"] == ["STOPPED", -1, True]
        not_found, empty, ended, no_log = seen["errors"]
        assert not_found == no_log == ["NOT_FOUND", f"job not found: {UNKNOWN}"]
        assert empty[0] == "INVALID_ARGUMENT"
        assert empty[1].startswith("invalid command: ")
        assert ended[0] == "FAILED_PRECONDITION"
        assert ended[1].startswith("job is not running: ")
        assert ended[1].endswith("(current status: FAILED)")
