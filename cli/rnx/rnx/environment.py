"""Environment variables for a job: from flags, from files, and by name from rnx's own. Pure, but for reading the files.

A file has one variable a line:

    NAME=VALUE             the value is what follows, without blanks around it; no comments, no escapes, no $NAME
    NAME='VALUE'           exactly what stands between the quotes
    NAME="VALUE"           the same, with \\n, \\t, \\", \\$ and \\\\
    NAME                   the value that rnx itself was given
    export NAME=VALUE      the same as without export
    # ...                  ignored, as are empty lines

Files come first, in their order, then flags; the last value of a name counts. The texts of refusals never hold a value.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rnx.errors import BadUsage

_MOST_BYTES = 1 << 20  # of a file; no job could be given more
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "$": "$", "\\": "\\"}
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SINGLE_QUOTED = re.compile(r"'([^']*)'")


@dataclass(frozen=True, slots=True)
class Source:
    """Where variables of one kind come from: the flag for one, the flag for a file, and what was given with each."""

    flag: str
    file_flag: str
    assignments: tuple[str, ...]
    files: tuple[Path, ...]


def variables(source: Source, own: Mapping[str, str]) -> dict[str, str]:
    """`own` is rnx's environment. Raises BadUsage."""
    result: dict[str, str] = {}
    for file in source.files:
        for where, line in _lines(source.file_flag, file):
            name, value = _parsed(where, line, own)
            result[name] = value
    for assignment in source.assignments:
        name, equals, value = assignment.partition("=")
        if not name:
            raise BadUsage(f"{source.flag}: expected NAME=VALUE or NAME")
        hint = f"write {source.flag} {name}=VALUE"
        result[name] = value if equals else _own(source.flag, name, own, hint)
    return result


def refuse_both(plain: Mapping[str, str], secret: Mapping[str, str]) -> None:
    """Raises BadUsage for a name that would be visible and secret."""
    for name in sorted(plain.keys() & secret.keys()):
        raise BadUsage(f"{name} is given as --env and as --secret-env", hint="only one of them can count")


def _lines(flag: str, file: Path) -> Iterable[tuple[str, str]]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise BadUsage(f"{flag} {file}: larger than {_MOST_BYTES >> 20} MiB")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise BadUsage(f"{flag} {file}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise BadUsage(f"{flag} {file}: not UTF-8") from error
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield f"{flag} {file}, line {number}", stripped


def _parsed(where: str, line: str, own: Mapping[str, str]) -> tuple[str, str]:
    head, equals, rest = line.removeprefix("export ").partition("=")
    name = head.strip()
    if not name or any(character.isspace() for character in name):
        raise BadUsage(f"{where}: expected NAME=VALUE or NAME")
    return name, _unquoted(where, name, rest.strip()) if equals else _own(where, name, own, f"write {name}=VALUE")


def _unquoted(where: str, name: str, text: str) -> str:
    if text.startswith("'"):
        return _quoted(_SINGLE_QUOTED, where, name, text)
    if text.startswith('"'):
        return re.sub(
            r"\\(.)", lambda match: _escape(where, name, match[1]), _quoted(_DOUBLE_QUOTED, where, name, text)
        )
    return text


def _quoted(pattern: re.Pattern[str], where: str, name: str, text: str) -> str:
    match = pattern.fullmatch(text)
    if match is None:
        raise BadUsage(f"{where}: the quotes around the value of {name} do not match")
    return match[1]


def _escape(where: str, name: str, character: str) -> str:
    if character not in _ESCAPES:
        raise BadUsage(f"{where}: unknown escape in the value of {name}", hint=r"known are \n, \t, \", \$ and \\")
    return _ESCAPES[character]


def _own(where: str, name: str, own: Mapping[str, str], hint: str) -> str:
    if name not in own:
        raise BadUsage(f"{where} {name}: no value given and not set here", hint=hint)
    return own[name]
