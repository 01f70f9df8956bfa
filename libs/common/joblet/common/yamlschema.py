"""Reading a YAML file into frozen dataclasses, strictly: every fault is found in one pass and named by its dotted key.

A section is a dataclass whose fields are made by the functions below (`integer(...)`, `duration(...)`, `section(...)`).
The YAML key of a field is its name in camelCase, without the `_seconds` that a duration's name ends in. What a section
may hold therefore stands in one place, beside its default; unknown keys, wrong types and bad values become problems.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from joblet.common.errors import ConfigError, InvalidArgument
from joblet.common.units import parse_duration

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """How one YAML value becomes a field: `parse(value, base)` returns it or raises ValueError unless it is `expected`.

    `base` is the directory that relative paths in the file are relative to.
    """

    expected: str
    parse: Callable[[object, Path], object]
    is_duration: bool = False


_RULE = "rule"
_SECTION = "section"


def _field(default: T, rule: Rule) -> T:
    """A dataclass field with a rule; typed as its value, as dataclasses.field itself is."""
    return field(default=default, metadata={_RULE: rule})


def integer(default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    def parse(value: object, _base: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise ValueError
        return value

    return _field(default, Rule(f"a whole number from {minimum} to {maximum}", parse))


def number(default: float, *, minimum: float, maximum: float) -> float:
    def parse(value: object, _base: Path) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise ValueError
        return float(value)

    return _field(default, Rule(f"a number from {minimum:g} to {maximum:g}", parse))


def duration(default: float, *, minimum: float = 0.0) -> float:
    """Seconds, written as "30s" or "1h30m" in the file."""

    def parse(value: object, _base: Path) -> float:
        if not isinstance(value, str):
            raise ValueError
        seconds = parse_duration(value)
        if seconds < minimum:
            raise ValueError
        return seconds

    bound = f" of at least {minimum:g}s" if minimum else ""
    return _field(default, Rule(f'a duration{bound} such as "30s", "1h30m" or "100ms"', parse, is_duration=True))


def choice(default: str, allowed: tuple[str, ...]) -> str:
    def parse(value: object, _base: Path) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError
        return value

    return _field(default, Rule(f"one of {', '.join(allowed)}", parse))


def text(default: str, *, pattern: str = r".+", expected: str = "a text that is not empty") -> str:
    return _field(default, Rule(expected, _text_parser(pattern)))


def database(default: str) -> str:
    """A URL for SQLAlchemy; the file of a relative SQLite URL, sqlite:///gateway.db, is a path like any other."""
    parse_text = _text_parser(r"(sqlite|postgresql)(\+\w+)?://.+")

    def parse(value: object, base: Path) -> str:
        url = parse_text(value, base)
        prefix, separator, file = url.partition(":///")
        return f"{prefix}:///{base / file}" if prefix.startswith("sqlite") and separator else url

    return _field(default, Rule("a database URL, sqlite:///FILE or postgresql://...", parse))


def _text_parser(pattern: str) -> Callable[[object, Path], str]:
    compiled = re.compile(pattern)

    def parse(value: object, _base: Path) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError
        return value

    return parse


_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})", re.ASCII)
_ADDRESS_TEXT = 'an address "host:port" such as "0.0.0.0:50051" or "[::]:50051"'


def split_address(address: str) -> tuple[str, int]:
    """("::", 50051) for "[::]:50051". Raises InvalidArgument for anything that is not host:port."""
    match = _ADDRESS.fullmatch(address)
    if not match or int(match["port"]) > 65535:
        raise InvalidArgument(f'expected {_ADDRESS_TEXT}, got "{address}"')
    return match["host"].strip("[]"), int(match["port"])


def _parse_address(value: object, _base: Path) -> str:
    if not isinstance(value, str):
        raise ValueError
    split_address(value)
    return value


def address(default: str) -> str:
    return _field(default, Rule(_ADDRESS_TEXT, _parse_address))


def optional_address() -> str | None:
    return _field(cast(str | None, None), Rule(_ADDRESS_TEXT, _parse_address))


def addresses(default: tuple[str, ...]) -> tuple[str, ...]:
    def parse(value: object, base: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError
        return tuple(_parse_address(item, base) for item in value)

    return _field(default, Rule(f"a list of one or more, each {_ADDRESS_TEXT}", parse))


def _parse_path(value: object, base: Path) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return base / value


def path(default: str) -> Path:
    return _field(Path(default), Rule("a path", _parse_path))


def optional_path() -> Path | None:
    return _field(cast(Path | None, None), Rule("a path", _parse_path))


def labels() -> Mapping[str, str]:
    def parse(value: object, _base: Path) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValueError
        if not all(isinstance(key, str) and key and isinstance(item, str) for key, item in value.items()):
            raise ValueError
        return dict(value)

    rule = Rule('a mapping of texts such as {zone: "a"}', parse)
    return cast(Mapping[str, str], field(default_factory=dict, metadata={_RULE: rule}))


def section(kind: type[T], **defaults: Any) -> T:
    """A nested section; `defaults` replace those of the section's own fields."""
    return field(default_factory=lambda: kind(**defaults), metadata={_SECTION: kind})


def read(kind: type[T], source: Path) -> T:
    """The file as a `kind`; an empty file is all defaults. Raises ConfigError with every problem found."""
    document = load_document(source)
    problems: list[str] = []
    parsed = _read_section(_default(kind), {} if document is None else document, "", source.absolute().parent, problems)
    if problems:
        raise ConfigError(problems, source=str(source))
    return parsed


def load_document(source: Path) -> object:
    """The YAML file as plain mappings, lists and scalars, None if it is empty; keys are texts and given once.

    Raises ConfigError if the file cannot be read or is not YAML.
    """
    try:
        return yaml.load(source.read_bytes(), Loader=_UniqueKeyLoader)  # a SafeLoader
    except OSError as error:
        raise ConfigError([f"cannot read {source}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"not YAML: {' '.join(str(error).split())}"], source=str(source)) from error


def _default(kind: type[T]) -> T:
    return kind()


def _read_section(defaults: T, document: object, prefix: str, base: Path, problems: list[str]) -> T:
    if not isinstance(document, dict):
        problems.append(f"{prefix.rstrip('.') or 'the file'}: expected a mapping of keys, got {_shown(document)}")
        return defaults
    by_key = {key_of(item): item for item in fields(cast(Any, defaults))}
    for key in document:
        if key not in by_key:
            problems.append(f"{prefix}{key}: unknown key (allowed: {', '.join(by_key)})")
    values: dict[str, object] = {}
    for key, item in by_key.items():
        default = getattr(defaults, item.name)
        values[item.name] = default
        # `key:` with nothing behind it is how YAML writes "not set".
        if document.get(key) is None:
            continue
        if _SECTION in item.metadata:
            values[item.name] = _read_section(default, document[key], f"{prefix}{key}.", base, problems)
        else:
            values[item.name] = _read_value(
                item.metadata[_RULE], document[key], default, f"{prefix}{key}", base, problems
            )
    return type(defaults)(**values)


def _read_value(rule: Rule, value: object, default: object, name: str, base: Path, problems: list[str]) -> object:
    try:
        return rule.parse(value, base)
    except ValueError:
        problems.append(f"{name}: expected {rule.expected}, got {_shown(value)}")
        return default


def key_of(item: "Field[Any]") -> str:
    """The YAML key of a field: max_processes -> maxProcesses; of a duration: job_timeout_seconds -> jobTimeout."""
    rule = item.metadata.get(_RULE)
    name = item.name.removesuffix("_seconds") if rule is not None and rule.is_duration else item.name
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def _shown(value: object) -> str:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML forbids a key given twice (YAML 1.2, 3.2.1.1); PyYAML keeps the last one silently, which hides a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
