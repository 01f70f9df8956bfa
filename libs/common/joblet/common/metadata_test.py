import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.common import metadata
from joblet.common.property_fixture import at_any_pace


@at_any_pace
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_travels_as_printable_ascii(text: str) -> None:
    encoded = metadata.encode(text)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert metadata.decode(encoded) == text


def test_what_is_not_there_is_none() -> None:
    assert metadata.decode(None) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("f47ac10b-58cc", True),
        ("a.b_c", True),
        ("", False),
        ("a b", False),
        ("a\nb", False),
        ("x" * 65, False),
        (b"x", False),
    ],
)
def test_request_ids_are_harmless_in_a_log(text: object, good: bool) -> None:
    assert metadata.is_request_id(text) is good
