from pathlib import Path

import pytest

from rnx import params
from rnx.errors import BadUsage


def test_labels() -> None:
    assert params.labels(["team=a", "empty=", "x=y=z", "team=a"]) == {"team": "a", "empty": "", "x": "y=z"}
    for wrong in ("team", "=a", ""):
        with pytest.raises(BadUsage, match="--label: expected NAME=VALUE"):
            params.labels([wrong])
    with pytest.raises(BadUsage, match="--label team: given twice"):
        params.labels(["team=a", "team=b"])


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("1000ms", 1)])
def test_durations(text: str, seconds: int) -> None:
    assert params.Duration()(text) == seconds


def test_uploads_share_the_room(tmp_path: Path) -> None:
    half = params.MAX_REQUEST_BYTES // 2 + 1
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(half))
    with pytest.raises(BadUsage, match=f"two: {half} bytes: too large"):
        params.uploads([tmp_path / "one", tmp_path / "two"])
