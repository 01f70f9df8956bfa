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
