"""Tries: has a file of the machine kept as its output, by links to it and to its directory
Must: nothing
See: symlink(7); CVE-2024-1753 (buildah), CVE-2018-15664 (docker cp)
"""

import sys
from pathlib import Path

from escape.attempt import stopped

marker = Path(sys.argv[1])
kept = Path("/work/kept")
kept.mkdir()
for number, root in enumerate(("", "/mnt", "/proc/1/root", "/proc/self/root", "../../mnt")):
    (kept / f"file{number}").symlink_to(f"{root}{marker}")
    (kept / f"directory{number}").symlink_to(f"{root}{marker.parent}")
stopped("nothing", "unless it is kept")
