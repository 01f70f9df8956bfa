from __future__ import annotations

from pathlib import Path

import pytest

from joblet.common.errors import StartError
from joblet.executor.jobinit_path import locate


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_configured_place_wins(tmp_path: Path) -> None:
    packed, configured = executable(tmp_path / "packed"), executable(tmp_path / "configured")
    assert locate(configured, (packed,)) == configured


def test_first_candidate_that_can_be_run(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    built = executable(tmp_path / "built")
    assert locate(None, (tmp_path / "missing", plain, built)) == built


def test_configured_place_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="configured") as caught:
        locate(tmp_path / "configured", (executable(tmp_path / "packed"),))
    assert caught.value.hint


def test_every_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"one.*two"):
        locate(None, (tmp_path / "one", tmp_path / "two"))
