"""Tries: connects to a socket of the services
Must: ENOENT EACCES
See: unix(7)
"""

import errno
import socket
import sys

from escape.attempt import reached, stopped

for start in ("/mnt", ""):
    with socket.socket(socket.AF_UNIX) as client:
        error = client.connect_ex(start + sys.argv[1])
        if error == 0:
            reached(start + sys.argv[1])
stopped(errno.errorcode[error], "connect")
