"""Tries: writes to a directory of the machine that jobs see
Must: EROFS EACCES
See: mount(2), MS_RDONLY
"""

import sys
from pathlib import Path

from escape.attempt import attempt, reached

path = Path(sys.argv[1], "written")
with attempt(path):
    path.touch()
    path.unlink()
    reached(path)
