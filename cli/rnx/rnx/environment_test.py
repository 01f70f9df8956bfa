from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblet.common.property_fixture import at_any_pace
from rnx.environment import Source, refuse_both, variables
from rnx.errors import BadUsage

OWN = {"HERE": "from here"}
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]*", fullmatch=True)


def given_flags(*assignments: str) -> Source:
    return Source("--secret-env", "--secret-env-file", assignments, ())


def given_file(path: Path, text: str) -> Source:
    file = path / "variables"
    file.write_text(text)
    return Source("--secret-env", "--secret-env-file", (), (file,))


@at_any_pace
@given(st.dictionaries(NAMES, st.text()))
def test_flags_round_trip(values: dict[str, str]) -> None:
    assert variables(given_flags(*(f"{name}={value}" for name, value in values.items())), {}) == values


def test_flags_by_name() -> None:
    assert variables(given_flags("HERE", "B=", "HERE=2"), OWN) == {"HERE": "2", "B": ""}
    assert variables(given_flags("HERE"), OWN) == OWN


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("  export A = two words ", "two words"),
        ("A=", ""),
        ("A=x=y", "x=y"),
        ("A=not # a comment", "not # a comment"),
        ("A=$HOME \\n", "$HOME \\n"),
        ("A=' $x \"y\" \\n '", ' $x "y" \\n '),
        (r'A=" a\tb\nc\"\$\\ "', ' a\tb\nc"$\\ '),
        ("A=''", ""),
        ("\ufeffA=1\r", "1"),
    ],
)
def test_lines_of_a_file(tmp_path: Path, line: str, value: str) -> None:
    assert variables(given_file(tmp_path, f"{line}\n\n  # comment"), OWN) == {"A": value}


def test_a_file_then_flags(tmp_path: Path) -> None:
    file = given_file(tmp_path, "A=1\nHERE\nA=2\nB=3\n").files
    assert variables(Source("-e", "--env-file", ("B=4",), file), OWN) == {"A": "2", "HERE": "from here", "B": "4"}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("=canary", "expected NAME=VALUE or NAME"),
        ("two words=canary", "expected NAME=VALUE or NAME"),
        ("A='canary", "the quotes around the value of A do not match"),
        ('A="canary" x', "the quotes around the value of A do not match"),
        (r'A="canary\x"', "unknown escape in the value of A"),
        ("MISSING", "MISSING: no value given and not set here"),
    ],
)
def test_refusals_name_the_line_and_never_the_value(tmp_path: Path, line: str, text: str) -> None:
    source = given_file(tmp_path, f"X=1\n{line}\n")
    with pytest.raises(BadUsage) as refused:
        variables(source, OWN)
    assert refused.value.message.startswith(f"--secret-env-file {source.files[0]}, line 2")
    assert text in refused.value.message
    assert "canary" not in f"{refused.value.message} {refused.value.hint}"


def test_flags_that_are_refused(tmp_path: Path) -> None:
    for assignment, text in (("=canary", "expected NAME=VALUE"), ("MISSING", "no value given and not set here")):
        with pytest.raises(BadUsage, match=text) as refused:
            variables(given_flags(assignment), OWN)
        assert "canary" not in refused.value.message
    (tmp_path / "binary").write_bytes(b"A=\xff")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    for name, text in (
        ("absent", "no such file or directory"), (".", "is a directory"), ("binary", "not UTF-8"),
        ("large", "larger than 1 MiB"), ("/dev/zero", "larger than 1 MiB"),
    ):  # fmt: skip
        with pytest.raises(BadUsage, match=text):
            variables(Source("-e", "--env-file", (), (tmp_path / name,)), OWN)
    with pytest.raises(BadUsage, match="B is given as --env and as --secret-env"):
        refuse_both({"A": "", "B": ""}, {"B": "canary"})
