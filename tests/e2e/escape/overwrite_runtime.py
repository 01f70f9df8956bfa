"""Tries: opens the program of the job's init, to overwrite what starts jobs
Must: EACCES
See: CVE-2019-5736 (runc, /proc/self/exe)
"""

from pathlib import Path

from escape.attempt import attempt, reached

with attempt("/proc/1/exe"), Path("/proc/1/exe").open("rb"):
    reached("init's program")
