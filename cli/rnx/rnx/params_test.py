from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnx import params
from rnx.errors import BadUsage


@given(st.dictionaries(st.text(st.characters(exclude_characters="="), min_size=1), st.text()))
def test_environment_round_trip(values: dict[str, str]) -> None:
    assert params.environment([f"{name}={value}" for name, value in values.items()], {}) == values


def test_environment_from_here() -> None:
    assert params.environment(["A", "B=", "A=2"], {"A": "1"}) == {"A": "2", "B": ""}
    with pytest.raises(BadUsage, match="--env C: no value given and not set here"):
        params.environment(["C"], {"A": "1"})
    with pytest.raises(BadUsage, match='expected NAME=VALUE, got "=x"'):
        params.environment(["=x"], {})


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("1000ms", 1)])
def test_durations(text: str, seconds: int) -> None:
    assert params.Duration()(text) == seconds


def test_uploads_share_the_room(tmp_path: Path) -> None:
    half = params.MAX_REQUEST_BYTES // 2 + 1
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(half))
    with pytest.raises(BadUsage, match=f"two: {half} bytes: too large"):
        params.uploads([tmp_path / "one", tmp_path / "two"])
