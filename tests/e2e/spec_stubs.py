"""Stubs from tests/e2e/spec/joblet.proto: what a client generates who has only the API reference.

They register the same package as joblet.api, so only a process that never imports joblet.api may load them.
"""

from __future__ import annotations

from pathlib import Path

from stubs import compile_protos

SPEC = Path(__file__).resolve().parent / "spec"


def generate(into: Path) -> None:
    """Writes joblet_pb2.py and joblet_pb2_grpc.py to the existing folder `into`; put it first on PYTHONPATH."""
    compile_protos(SPEC, [Path("joblet.proto")], [f"--python_out={into}", f"--grpc_python_out={into}"])
