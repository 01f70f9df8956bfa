"""Tries: reads the files of another job: its /work and /tmp
Must: ENOENT EACCES
See: proc_pid_root(5), pid_namespaces(7)
"""

import sys
from pathlib import Path

from escape.attempt import first_readable, others

name = sys.argv[1]
here = [Path(directory, name) for directory in ("/work", "/tmp", "/dev/shm")]
first_readable([*here, *others(f"root/work/{name}"), *others(f"root/tmp/{name}")])
