"""The tests of jobinit once more, with AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

HERE = Path(__file__).parent
SOURCES = Path(__file__).parents[2] / "jobinit"
CHECKOUT = Path(__file__).parents[4]


def test_the_sanitizer_build_passes_the_same_tests(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "sanitize", f"OUT={tmp_path}"], cwd=SOURCES, check=True, timeout=300)
    tests = [test for test in sorted(HERE.glob("jobinit_*root_test.py")) if test != Path(__file__)]
    quiet = ["-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, "--basetemp", tmp_path / "jbtest", *tests],
        cwd=CHECKOUT, env={**os.environ, "JOBINIT": str(tmp_path / "jobinit-asan")},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
