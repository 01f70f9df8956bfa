"""An executor as it should not be: what jobinit must put right for its jobs is wrong in this process for a while."""

import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from joblet.executor import syscalls
from joblet.executor.userns import UserNamespace
from joblet.executor.workers import worker

EXTRA_GROUP = 54321
INHERITABLE = 60
"""A descriptor beyond the protocol's that is not closed by execve."""
NESTED = 7
"""User namespaces that `allow_nested` allows below a job's."""
_CLONE_NEWUTS = 0x04000000
_ADDR_NO_RANDOMIZE = 0x0040000
_KEYCTL_JOIN_SESSION_KEYRING, _SESSION_KEYRING = 1, -3
_NR_ADD_KEY, _NR_KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def careless() -> Iterator[None]:
    """Extra groups, an ignored signal, a personality, a umask, an inheritable descriptor, a key, a domain name.

    The uts namespace and the session keyring are this process's own afterwards, too; nothing tells the difference."""
    with ExitStack() as stack:
        stack.callback(os.setgroups, os.getgroups())
        os.setgroups([0, EXTRA_GROUP])
        stack.callback(signal.signal, signal.SIGUSR2, signal.signal(signal.SIGUSR2, signal.SIG_IGN))
        stack.callback(os.umask, os.umask(0o027))
        stack.callback(_libc.personality, _libc.personality(_ADDR_NO_RANDOMIZE))
        null = os.open("/dev/null", os.O_RDONLY)
        stack.callback(os.close, INHERITABLE)
        os.dup2(null, INHERITABLE, inheritable=True)
        os.close(null)
        syscalls.unshare(_CLONE_NEWUTS)
        assert _libc.setdomainname(b"jbtest.example", 14) == 0
        _libc.syscall(_NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)
        assert _libc.syscall(_NR_ADD_KEY, b"user", b"jbtest", b"secret", ctypes.c_size_t(6), _SESSION_KEYRING) > 0
        yield


def allow_nested(user: UserNamespace) -> None:
    """Takes back what the pool has forbidden when it made the namespace."""

    def write(channel: socket.socket) -> None:
        assert _libc.setns(user.fd, syscalls.CLONE_NEWUSER) == 0
        Path("/proc/sys/user/max_user_namespaces").write_text(str(NESTED))
        channel.send(b"allowed")

    with worker(write) as child:
        child.expect(b"allowed")
