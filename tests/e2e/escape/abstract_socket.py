"""Tries: connects to an abstract socket of the machine, which is no file
Must: ECONNREFUSED EPERM
See: unix(7), abstract sockets; CVE-2020-15257 (containerd-shim)
"""

import errno
import socket
import sys

from escape.attempt import reached, stopped

with socket.socket(socket.AF_UNIX) as client:
    error = client.connect_ex("\0" + sys.argv[1])
    if error == 0:
        reached("a connection")
stopped(errno.errorcode[error], "connect")
