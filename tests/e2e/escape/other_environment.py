"""Tries: reads the environment of any process in sight, where secrets may be
Must: nothing
See: proc_pid_environ(5)
"""

import sys

from escape.attempt import others, reached, stopped

for path in others("environ"):
    try:
        if sys.argv[1].encode() in path.read_bytes():
            reached(path)
    except OSError:
        continue
stopped("nothing", "no environment of another")
