"""The stubs checked in are what the .proto files give."""

from __future__ import annotations

from pathlib import Path

import stubs


def test_stubs_are_fresh(tmp_path: Path) -> None:
    stubs.generate(tmp_path)
    fresh, checked_in = stubs.generated(tmp_path), stubs.generated(stubs.ROOT)
    assert sorted(checked_in) == sorted(fresh), "run `make proto`"
    assert [path for path in fresh if checked_in[path] != fresh[path]] == [], "run `make proto`"


def test_every_definition_has_its_four_stubs() -> None:
    names = {path.with_suffix("").as_posix() for path in stubs.definitions()}
    assert {"joblet/api/job", "joblet/api/internal/executor"} <= names
    expected = {name + suffix.removeprefix("*") for name in names for suffix in stubs.GENERATED}
    assert {path.as_posix() for path in stubs.generated(stubs.ROOT)} == expected
