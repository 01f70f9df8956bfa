"""Tries: has another job pass it a descriptor
Must: ECONNREFUSED EPERM
See: unix(7), SCM_RIGHTS; landlock(7), LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
"""

import os
import socket
import sys

from escape.attempt import attempt, reached

with attempt("connect"), socket.socket(socket.AF_UNIX) as client:
    client.connect("\0" + sys.argv[1])
    _text, descriptors, _flags, _address = socket.recv_fds(client, 16, 1)
    reached(os.read(descriptors[0], 100).decode().strip())
