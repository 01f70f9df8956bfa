"""Tries: makes a device node of the machine's disk and reads it
Must: EPERM EACCES
See: mknod(2)
"""

import os
import stat
import sys

from escape.attempt import attempt, reached

major, minor = map(int, sys.argv[1].split(":"))
with attempt("mknod"):
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o666, os.makedev(major, minor))
with attempt("open"):
    os.close(os.open("/tmp/disk", os.O_RDONLY))
    reached("the disk")
