"""Tries: learns the name of the machine
Must: nothing
See: uts_namespaces(7)
"""

import os
import sys

from escape.attempt import reached, stopped

if os.uname().nodename == sys.argv[1]:
    reached(sys.argv[1])
stopped("nothing", os.uname().nodename)
