"""How to start each service: its executable beside rnx, on PATH, or its module in this interpreter."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from joblet.common.errors import FailedPrecondition
from rnx.local.layout import SERVICES


def find() -> dict[str, list[str]]:
    """Service -> the words of its command. Raises FailedPrecondition naming those that are nowhere."""
    commands = {name: _command(name) for name in SERVICES}
    missing = [f"joblet-{name}" for name, command in commands.items() if command is None]
    if missing:
        places = ", ".join(str(place) for place in _beside_rnx())
        raise FailedPrecondition(
            f"cannot find {', '.join(missing)}",
            hint=f"looked beside rnx ({places}), on PATH and for the Python packages",
        )
    return {name: command for name, command in commands.items() if command is not None}


def rnx() -> list[str]:
    """The words that run this rnx again."""
    return [sys.executable, "-m", "rnx"]


def _command(service: str) -> list[str] | None:
    for directory in _beside_rnx():
        for name in (f"joblet-{service}", f"joblet-{service}.pex"):
            if os.access(directory / name, os.X_OK):
                return [str(directory / name)]
    on_path = shutil.which(f"joblet-{service}")
    if on_path:
        return [on_path]
    return [sys.executable, "-m", f"joblet.{service}"] if _importable(f"joblet.{service}.__main__") else None


def _beside_rnx() -> list[Path]:
    """Where the rnx that runs lies; inside a PEX that is the file, not what it was unpacked to."""
    started_as = [os.environ.get("PEX", ""), sys.argv[0], sys.executable]
    return list(dict.fromkeys(Path(place).absolute().parent for place in started_as if place))


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package
        return False
