"""Tries: raises the number of user namespaces it may make; it only opens the file
Must: EACCES EROFS
See: namespaces(7), /proc/sys/user
"""

from escape.attempt import open_for_writing

open_for_writing("/proc/sys/user/max_user_namespaces")
