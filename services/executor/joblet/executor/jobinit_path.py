"""Where jobinit is: named in the configuration, packed beside this module, or built in a checkout.

A name in the configuration (`executor.jobinit`) is never passed over for another one. A PEX carries jobinit as its
file bin/jobinit; a checkout has it where its Makefile puts it. Called once, when the executor starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from joblet.common.errors import StartError

PACKED = Path(__file__).resolve().parent / "bin/jobinit"
# services/executor/joblet/executor/jobinit_path.py -> the checkout's top
BUILT = Path(__file__).resolve().parents[4] / "build/jobinit/jobinit"


def locate(configured: Path | None, candidates: tuple[Path, ...] = (PACKED, BUILT)) -> Path:
    """The executable of every jobinit; StartError naming every place looked at when there is none."""
    places = (configured,) if configured else candidates
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place
    raise StartError(
        f"jobinit is not an executable file: {', '.join(map(str, places))}",
        hint="build it with `make setup`, or name it in the configuration as executor.jobinit",
    )
