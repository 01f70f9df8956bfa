"""Tries: connects to what listens on the machine's loopback addresses
Must: ECONNREFUSED
See: ip(7), network_namespaces(7)
"""

import errno
import socket
import sys

from escape.attempt import reached, stopped

with socket.socket() as client:
    error = client.connect_ex(("127.0.0.1", int(sys.argv[1])))
    if error == 0:
        reached("a connection")
stopped(errno.errorcode[error], "connect")
