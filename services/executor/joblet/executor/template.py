"""The mount namespace that every job of this node starts from: about five mounts instead of the host's.

Made once at start-up by a worker that builds the root of `rootplan`, pivots into it and detaches the host's tree; the
executor keeps the namespace as a descriptor, which jobinit enters with setns(2).
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from joblet.executor import syscalls
from joblet.executor.rootplan import Operation
from joblet.executor.workers import worker


def build_template(operations: Sequence[Operation], mountpoint: Path) -> int:
    """The namespace's descriptor (close-on-exec). `mountpoint` exists and is mounted over in the worker only.

    Raises OSError (EPERM without CAP_SYS_ADMIN). Must be called while the process has a single thread.
    """

    def build(channel: socket.socket) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.make_mounts_private()
        os.umask(0)
        for operation in operations:
            operation.apply(mountpoint)
        os.chdir(mountpoint)
        syscalls.pivot_root_here()
        channel.send(b"built")
        channel.recv(1)

    with worker(build) as child:
        child.expect(b"built")
        return os.open(f"/proc/{child.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
