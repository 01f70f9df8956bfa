import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.common.errors import InvalidArgument
from joblet.common.property_fixture import at_any_pace
from joblet.common.units import MAX_CPUS, format_cpu_list, parse_cpu_list, parse_duration, rfc3339


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("5s", 5),
        ("30s", 30),
        ("2min", 120),
        ("2m", 120),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5h", 5400),
        ("1m500ms", 60.5),
        ("250us", 250e-6),
        ("250µs", 250e-6),
        ("10ns", 1e-8),
        ("0", 0),
        ("0s", 0),
        (" 5s ", 5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5x", "1h-30m", "1e3s", ".5s", "5S", "٣s", "5s\n6s", "infs"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, ""),
        (1_705_314_600_000_000_000, "2024-01-15T10:30:00Z"),
        (1_705_314_600_999_999_999, "2024-01-15T10:30:00Z"),
        (1, "1970-01-01T00:00:00Z"),
    ],
)
def test_times(ns: int, text: str) -> None:
    assert rfc3339(ns) == text


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", (0,)), ("0-2,5", (0, 1, 2, 5)), ("5,0-2,1", (0, 1, 2, 5)), ("3-3", (3,)), (" 1 , 2 ", (1, 2))],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["", ",", "1,", "2-1", "-1", "a", "1-", "0-99999", str(MAX_CPUS), "1;2", "0x1", "٣"])
def test_what_is_no_cpu_list(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a list of CPUs"):
        parse_cpu_list(text)


@at_any_pace
@given(st.sets(st.integers(0, MAX_CPUS - 1), min_size=1))
def test_cpu_lists_survive_printing(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))


def test_cpu_lists_are_printed_as_ranges() -> None:
    assert format_cpu_list((5, 0, 1, 2, 2)) == "0-2,5"
    assert format_cpu_list(()) == ""
