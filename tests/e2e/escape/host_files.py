"""Tries: reads a file of the machine by its path, and by going up from directories
Must: ENOENT EACCES
See: path_resolution(7)
"""

import sys
from pathlib import Path

from escape.attempt import first_readable

above = "../" * 40
path = sys.argv[1]
first_readable(Path(start + path) for start in ("", f"/work/{above}", f"/usr/{above}", f"/dev/pts/{above}", "/mnt"))
