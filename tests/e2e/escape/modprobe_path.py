"""Tries: has the kernel run a program as root instead of modprobe; it only opens the file
Must: EACCES EROFS
See: proc_sys_kernel(5), modprobe
"""

from escape.attempt import open_for_writing

open_for_writing("/proc/sys/kernel/modprobe")
