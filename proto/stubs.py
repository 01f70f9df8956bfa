"""Generates the Python stubs beside the .proto files: `make proto`.

Owns which files are generated and with which plugins. joblet/api/stubs_test.py calls generate() to prove that the
stubs checked in are those the .proto files give.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
# protoc finds a plugin as an executable file; this one is mypy-protobuf's entry point under our own interpreter.
PLUGIN = """#!{interpreter}
import sys
from mypy_protobuf.main import {function}
sys.exit({function}())
"""


def definitions(root: Path = ROOT) -> list[Path]:
    """The .proto files below `root`, relative to it."""
    return sorted(path.relative_to(root) for path in root.rglob("*.proto"))


def generated(root: Path) -> dict[Path, bytes]:
    """Every generated file below `root` with its content."""
    return {path.relative_to(root): path.read_bytes() for pattern in GENERATED for path in root.rglob(pattern)}


def compile_protos(root: Path, files: Iterable[Path], arguments: Iterable[str]) -> None:
    """Runs protoc in a process of its own; CalledProcessError carries what it said."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={root}", *arguments]
    subprocess.run([*command, *(str(root / file) for file in files)], check=True, capture_output=True, text=True)


def generate(into: Path, root: Path = ROOT) -> None:
    """Writes the stubs and their types for every .proto file below `root` to `into`, in the same folders."""
    with tempfile.TemporaryDirectory() as directory:
        plugins = {"mypy": "main", "mypy_grpc": "grpc"}
        for name, function in plugins.items():
            plugin = Path(directory) / f"protoc-gen-{name}"
            plugin.write_text(PLUGIN.format(interpreter=sys.executable, function=function))
            plugin.chmod(0o700)
        compile_protos(
            root,
            definitions(root),
            [
                *(f"--plugin={Path(directory) / f'protoc-gen-{name}'}" for name in plugins),
                *(f"--{name}_out={into}" for name in ("python", "grpc_python", *plugins)),
            ],
        )


def main() -> None:
    """Replaces every stub, and removes those whose .proto file is gone."""
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        fresh = generated(Path(directory))
    for stale in generated(ROOT).keys() - fresh.keys():
        (ROOT / stale).unlink()
    for path, content in fresh.items():
        (ROOT / path).write_bytes(content)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.stderr}{os.linesep}protoc failed")
