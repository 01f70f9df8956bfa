"""Tries: lays a link to the machine's files into its directory and exchanges it while it is used
Must: ENOENT EACCES
See: symlink(7), openat2(2); CVE-2018-15664 (docker cp) is a race of this kind
"""

import ctypes
import sys
from pathlib import Path

from escape.attempt import first_readable

RENAME_EXCHANGE, AT_FDCWD = 2, -100
directory = Path("/tmp/race")
directory.mkdir()
plain, link = directory / "plain", directory / "link"
plain.mkdir()
link.symlink_to("/mnt" if Path("/mnt/usr").is_dir() else "/")
libc = ctypes.CDLL(None)
for _ in range(1000):
    libc.renameat2(AT_FDCWD, bytes(plain), AT_FDCWD, bytes(link), RENAME_EXCHANGE)
first_readable([Path(f"{plain}{sys.argv[1]}"), Path(f"{link}{sys.argv[1]}")])
