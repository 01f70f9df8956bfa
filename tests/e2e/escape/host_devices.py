"""Tries: opens devices of the machine: memory, kernel log, ports, disks, virtual machines
Must: ENOENT
See: mem(4); Documentation/ABI/testing/dev-kmsg
"""

import errno
import os

from escape.attempt import reached, stopped

by = "ENOENT"
for name in ("mem", "kmsg", "port", "kvm", "fuse", "vda", "sda", "nvme0n1", "loop-control", "userfaultfd"):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(f"/dev/{name}", flags))
        except OSError as error:
            by = by if error.errno == errno.ENOENT else "EACCES"
        else:
            reached(f"/dev/{name}")
stopped(by, "all of them")
