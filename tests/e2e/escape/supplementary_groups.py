"""Tries: uses groups that root had, such as the one that may read /etc/shadow
Must: nothing
See: setgroups(2), credentials(7)
"""

import os

from escape.attempt import reached, stopped

groups = os.getgroups()
if groups:
    reached(f"groups {groups}")
stopped("nothing", "no group")
