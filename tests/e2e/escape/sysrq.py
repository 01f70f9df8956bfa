"""Tries: gives the machine commands such as a restart; it only opens the file
Must: EACCES EROFS
See: proc_sysrq-trigger(5)
"""

from escape.attempt import open_for_writing

open_for_writing("/proc/sysrq-trigger")
