"""What is tried in a child for each feature of the kernel. Each returns a text for the line, or raises OSError.

Mounts happen in a mount namespace of the child's own, from which nothing reaches the host's.
"""

import errno
import os
import signal
import stat
from pathlib import Path
from typing import Final

from rnx.doctor import syscalls
from rnx.doctor.attempts import mapped_user_namespace

NAMESPACES: Final = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "network": syscalls.CLONE_NEWNET,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
LANDLOCK_SCOPES: Final = 0b11  # abstract unix sockets, signals
LANDLOCK_SCOPES_ABI: Final = 6

_NULL_DEVICE: Final = (1, 3)
_FILTERED_CALL: Final = 434  # pidfd_open
_SAMPLE: Final = b"joblet"
_PLACES: Final = (Path("/tmp"), Path("/run"), Path("/var"))  # one of them is there to be mounted over


def namespace(flags: int) -> str:
    syscalls.unshare(flags)
    if flags & syscalls.CLONE_NEWPID:
        _first_process()
    return ""


def _first_process() -> None:
    """The namespace exists only once a child is in it."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def user_namespace(first_id: int, size: int) -> str:
    with mapped_user_namespace(first_id, size):
        return f"ids {first_id} to {first_id + size - 1} can be mapped"


def clone3() -> str:
    _, pidfd = syscalls.clone3()
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    return "works, with a pidfd"


def pidfd() -> str:
    own = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(own, signal.SIGCONT)
    return "can be opened and signalled"


def bind_mounts() -> str:
    read_only = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    syscalls.mount_setattr(syscalls.open_tree_clone("/usr"), read_only)
    return "open_tree and mount_setattr work"


def new_mounts() -> str:
    os.close(syscalls.new_tmpfs())
    return "fsopen, fsconfig and fsmount work"


def mounts_and_devices() -> str:
    place = _private_tmpfs()
    null = place / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(*_NULL_DEVICE))
    null.write_bytes(_SAMPLE)
    return "a tmpfs can be mounted, a device made and used"


def idmapped_mounts(directory: str, first_id: int, size: int) -> str:
    tree = syscalls.open_tree_clone(directory, 0)
    with mapped_user_namespace(first_id, size) as userns:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, userns)
    return f"work on the file system of {directory}"


def overlayfs() -> str:
    place = _private_tmpfs()
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    (place / "lower/file").write_bytes(_SAMPLE)
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    syscalls.mount("overlay", f"{place}/merged", "overlay", 0, options)
    (place / "merged/file").write_bytes(_SAMPLE * 2)
    return "can be mounted and written"


def seccomp() -> str:
    syscalls.no_new_privileges()
    syscalls.seccomp_refuse(_FILTERED_CALL, errno.EHOSTDOWN)
    try:
        os.pidfd_open(os.getpid())
    except OSError as error:
        if error.errno == errno.EHOSTDOWN:
            return "a filter can be loaded and refuses"
    raise OSError(errno.EPROTO, "a loaded filter refuses nothing", "seccomp")


def landlock() -> str:
    """The ABI as a number; with scoping really used where the kernel has it."""
    abi = syscalls.landlock_abi()
    if abi >= LANDLOCK_SCOPES_ABI:
        syscalls.no_new_privileges()
        syscalls.landlock_scope(LANDLOCK_SCOPES)
    return str(abi)


def splice() -> str:
    reader, writer = os.pipe()
    file = os.memfd_create("joblet-doctor")
    os.write(writer, _SAMPLE)
    moved = os.splice(reader, file, len(_SAMPLE))
    if os.pread(file, moved, 0) != _SAMPLE:
        raise OSError(errno.EPROTO, "what arrived is not what was sent", "splice")
    return "moves data from a pipe into a file"


def _private_tmpfs() -> Path:
    """An empty file system over an existing directory, seen by this process only."""
    place = next(path for path in _PLACES if path.is_dir())
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.make_mounts_private()
    syscalls.mount("joblet-doctor", str(place), "tmpfs", syscalls.MS_NOSUID, "mode=0700,size=1m")
    return place
