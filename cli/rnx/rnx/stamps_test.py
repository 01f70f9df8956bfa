import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.common.errors import Internal
from joblet.common.property_fixture import at_any_pace
from rnx.stamps import Stamper, rfc3339

T1, T2 = 1_705_314_600_120_000_000, 1_705_314_601_999_999_999
ONE, TWO = b"2024-01-15T10:30:00.120Z ", b"2024-01-15T10:30:01.999Z "


def stamped(*pieces: tuple[bytes, list[tuple[int, int]]]) -> bytes:
    written: list[bytes] = []
    stamper = Stamper(written.append)
    for payload, times in pieces:
        stamper.write(payload, times)
    return b"".join(written)


def test_a_line_has_the_time_of_its_first_byte() -> None:
    assert stamped((b"a\nb\n", [(0, T1)])) == ONE + b"a\n" + ONE + b"b\n"
    assert stamped((b"ab\ncd\n", [(0, T1), (1, T2)])) == ONE + b"ab\n" + TWO + b"cd\n"
    assert stamped((b"a\nb\n", [(0, T1), (2, T2)])) == ONE + b"a\n" + TWO + b"b\n"


def test_a_line_cut_in_two_has_one_time() -> None:
    assert stamped((b"begin", [(0, T1)]), (b"ning\nnext", [(0, T2)])) == ONE + b"beginning\n" + TWO + b"next"


def test_only_a_newline_ends_a_line() -> None:
    assert stamped((b"10%\r20%\r\n\x0b\x1e\n", [(0, T1)])) == ONE + b"10%\r20%\r\n" + ONE + b"\x0b\x1e\n"


def test_no_time_without_a_byte_and_no_byte_without_a_time() -> None:
    assert stamped((b"", [(0, T1)]), (b"a\n", [(0, T2)])) == TWO + b"a\n"
    with pytest.raises(Internal, match="output without times"):
        stamped((b"a", []))


@at_any_pace
@given(st.lists(st.tuples(st.binary(max_size=40).map(lambda text: text.replace(b"Z", b"\n")), st.integers(0, 2**60))))
def test_without_the_stamps_it_is_what_it_was(pieces: list[tuple[bytes, int]]) -> None:
    written = stamped(*((payload, [(0, time_ns), (len(payload) // 2, time_ns + 1)]) for payload, time_ns in pieces))
    plain = re.sub(rb"^[-0-9]+T[:.0-9]{12}Z ", b"", written, flags=re.MULTILINE)
    assert plain == b"".join(payload for payload, _ in pieces)


def test_milliseconds_are_cut_and_not_rounded() -> None:
    assert rfc3339(T2) == "2024-01-15T10:30:01.999Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
