"""Tries: changes a setting of the whole machine; it only opens the file
Must: EACCES EROFS
See: proc_sys_vm(5)
"""

from escape.attempt import open_for_writing

open_for_writing("/proc/sys/vm/overcommit_memory")
