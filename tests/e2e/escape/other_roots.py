"""Tries: reaches the machine's files through the root of any process in sight
Must: ENOENT EACCES
See: proc_pid_root(5)
"""

import sys

from escape.attempt import first_readable, others

first_readable(others(f"root{sys.argv[1]}"))
