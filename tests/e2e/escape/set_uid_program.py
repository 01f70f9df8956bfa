"""Tries: runs a set-uid program of root's
Must: nothing
See: execve(2); user_namespaces(7), set-user-ID programs
"""

import subprocess
import sys

from escape.attempt import reached, stopped

euid = subprocess.run([sys.argv[1]], capture_output=True, check=True).stdout.decode().strip()
if euid == "0":
    reached("root")
stopped("nothing", f"uid {euid}")
