"""Tries: signals a process of the machine by its number
Must: ESRCH EPERM
See: kill(2), pid_namespaces(7)
"""

import os
import sys

from escape.attempt import attempt, reached

with attempt("kill"):
    os.kill(int(sys.argv[1]), 0)
    reached("another's process")
