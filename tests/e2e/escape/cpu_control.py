"""Tries: writes to files of the machine's CPUs; it only opens the file
Must: EACCES EROFS
See: sysfs(5)
"""

from escape.attempt import open_for_writing

open_for_writing("/sys/devices/system/cpu/uevent")
