"""The directory of runtimes installed on this node: one directory per runtime.

Nothing installs runtimes yet, so the directory is empty. Whatever else may stand in it is not reported as a runtime.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from joblet.api.runtime_pb2 import Runtime
from joblet.common.errors import Unimplemented


class Catalogue:
    """Creates the directory (0755: jobs will read from it) when it is missing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._directory = directory

    def runtimes(self) -> Sequence[Runtime]:
        """Every installed runtime. Raises Unimplemented when something is there, OSError when it cannot be read."""
        found = sorted(entry.name for entry in os.scandir(self._directory) if not entry.name.startswith("."))
        if found:
            raise Unimplemented(f"reading installed runtimes ({', '.join(found[:5])})")
        return []
