"""Tries: looks into the job's init: environment, descriptors, root, memory
Must: EACCES EPERM
See: proc_pid(5); ptrace(2), access mode checking
"""

import os
from pathlib import Path

from escape.attempt import attempt, reached

with attempt("/proc/1"):
    Path("/proc/1/environ").read_bytes()
    os.listdir("/proc/1/fd")
    Path("/proc/1/root").readlink()
    with Path("/proc/1/mem").open("rb"):
        reached("init's memory")
