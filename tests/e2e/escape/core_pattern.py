"""Tries: has the kernel run a program as root when a process dumps core; it only opens the file
Must: EACCES EROFS
See: core(5), piping core dumps to a program
"""

from escape.attempt import open_for_writing

open_for_writing("/proc/sys/kernel/core_pattern")
