"""The escape corpus: its cases, what each program says of itself, and how the programs are built.

The programs lie in tests/e2e/escape, one trick each; cases.toml there says what stops it. A program's head says what it
tries, how it must end inside a job and where the trick is described. It prints one line: "reached HOW" when it got
somewhere, "stopped BY AT" when it did not.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "escape"
BUILD = Path(__file__).resolve().parents[2] / "build/escape"
"""Kept between runs, and shown to the cgroup v2 guests, where compiling takes long."""
_HEAD = re.compile(r"Tries:(.*?)Must:(.*?)See:(.*?)(?:\*/|\"\"\")", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Case:
    """One trick, one way of trying it. The words of `arguments` in braces stand for objects of the machine."""

    name: str
    program: str
    stopped_by: tuple[str, ...]
    also_off: frozenset[str]
    network: str
    work_dir: str
    outputs: tuple[str, ...]
    arguments: tuple[str, ...]
    absent: frozenset[str]
    gap: str
    tries: str
    must: frozenset[str]
    see: str

    def argv(self, directory: str, objects: Mapping[str, str]) -> list[str]:
        """The command line where the programs lie in `directory`/escape."""
        arguments = [argument.format(**objects) for argument in self.arguments]
        if (CORPUS / f"{self.program}.c").exists():
            return [f"{directory}/escape/{self.program}", *arguments]
        return ["python3", "-S", "-m", f"escape.{self.program}", *arguments]

    def variants(self) -> Iterator[frozenset[str]]:
        """Sets of protections to take away: all of them first, then all but one."""
        every = self.also_off | frozenset(self.stopped_by)
        yield every
        if len(self.stopped_by) > 1:
            yield from (every - {kept} for kept in self.stopped_by)


def cases() -> tuple[Case, ...]:
    """Every row of cases.toml with the head of its program."""
    table = tomllib.loads((CORPUS / "cases.toml").read_text())
    return tuple(_case(name, row) for name, row in table.items())


def _case(name: str, row: dict[str, object]) -> Case:
    known = {"program", "stopped_by", "also_off", "network", "work_dir", "outputs", "arguments", "absent", "gap"}
    assert row.keys() <= known, f"{name}: {row.keys() - known}"
    program = str(row.get("program", name))
    tries, must, see = head(program)
    return Case(
        name, program, _texts(row, "stopped_by"), frozenset(_texts(row, "also_off")), str(row.get("network", "none")),
        str(row.get("work_dir", "")), _texts(row, "outputs"), _texts(row, "arguments"),
        frozenset(_texts(row, "absent")), str(row.get("gap", "")), tries, frozenset(must.split()), see,
    )  # fmt: skip


def _texts(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key, [])
    assert isinstance(value, list)
    return tuple(map(str, value))


def source(program: str) -> Path:
    """The program's file."""
    return next(path for path in (CORPUS / f"{program}.c", CORPUS / f"{program}.py") if path.exists())


def head(program: str) -> tuple[str, str, str]:
    """What it tries, how it must end, where it is described."""
    found = _HEAD.match(source(program).read_text().lstrip('/*" '))
    assert found, f"{program}: no head"
    tries, must, see = (re.sub(r"[\s*]+", " ", part).strip() for part in found.groups())
    return tries, must, see


def build() -> Path:
    """The folder BUILD/escape with every program: C compiled, Python copied. What is there and newer is left."""
    target = BUILD / "escape"
    target.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: _compile(path, target), sorted(CORPUS.glob("*.c"))))
    for path in CORPUS.glob("*.py"):
        _put(path.read_bytes(), target / path.name)
    return target


def _compile(path: Path, target: Path) -> None:
    program = target / path.stem
    newest = max(source.stat().st_mtime for source in (path, CORPUS / "attempt.h"))
    if program.exists() and program.stat().st_mtime > newest:
        return
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-s"]
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        made = Path(directory, path.stem)
        subprocess.run(["gcc", *flags, "-o", made, path], check=True)
        _put(made.read_bytes(), program)


def _put(content: bytes, path: Path) -> None:
    """By rename: another run may be using the folder."""
    if path.exists() and path.read_bytes() == content:
        path.touch()
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(0o755)
    Path(file.name).rename(path)
