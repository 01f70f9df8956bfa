"""Tries: moves itself out of its cgroup, or sets the program that the kernel runs for an empty one
Must: ENOENT EACCES
See: cgroups(7)
"""

import errno
from pathlib import Path

from escape.attempt import reached, stopped

by = "ENOENT"
for start in ("/sys/fs/cgroup", "/mnt/sys/fs/cgroup"):
    for name in ("cgroup.procs", "memory/cgroup.procs", "memory/release_agent", "unified/cgroup.procs"):
        path = Path(start, name)
        try:
            if path.exists():
                path.open("wb", buffering=0).close()
                reached(path)
        except OSError as error:
            by = errno.errorcode[error.errno or 0]
stopped(by, "all of them")
