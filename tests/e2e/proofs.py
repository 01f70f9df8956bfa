"""How large a proof is: small enough for every run of the suite, or as large as the promise with JOBLET_PROOFS=full."""

from __future__ import annotations

import os

VARIABLE = "JOBLET_PROOFS"


def size(small: int, full: int) -> int:
    """The one of both that this run is to take."""
    wanted = os.environ.get(VARIABLE, "small")
    if wanted not in ("small", "full"):
        raise ValueError(f'{VARIABLE} is "small" or "full", not "{wanted}"')
    return full if wanted == "full" else small
