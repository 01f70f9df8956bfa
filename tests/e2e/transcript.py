"""Comparing what rnx printed with a transcript of the API reference: ids and times aside, to the letter."""

from __future__ import annotations

import re

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def neutral(text: str) -> list[str]:
    """The lines of `text` with every id and time replaced by its kind; trailing blanks are kept."""
    return _TIME.sub("<time>", _UUID.sub("<id>", text)).splitlines()


def assert_begins_like(printed: str, transcript: str) -> None:
    """`printed` must start with the transcript's lines; extra lines may only follow them."""
    expected = neutral(transcript)
    assert neutral(printed)[: len(expected)] == expected
