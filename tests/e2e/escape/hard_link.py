"""Tries: links a file of the machine to another name, to keep or change it
Must: EXDEV EROFS EPERM EACCES
See: link(2), protected_hardlinks in proc_sys_fs(5)
"""

import os
import sys
from pathlib import Path

from escape.attempt import attempt, reached

directory = Path(sys.argv[1])
with attempt("link"):
    os.link(directory / "file", directory / "link")
    (directory / "link").unlink()
    reached(f"a link in {directory}")
