"""The Linux system calls Python has no wrapper for: namespaces, mounts, prctl and the Landlock probe.

One prototype per call; every failure becomes an OSError whose text names the call and its operands. Structures and
constants come from linux/mount.h, linux/sched.h and linux/prctl.h; see mount_setattr(2), open_tree(2), unshare(2).
Only the calls that every architecture numbers alike (428 and up) go through syscall(2) by a bare number.
"""

import ctypes
import functools
import os
import platform
from typing import Any, Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MNT_DETACH: Final = 0x2

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 0x4

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_LANDLOCK_CREATE_RULESET_VERSION: Final = 0x1

_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_MOUNT_SETATTR: Final = 442
_NR_LANDLOCK_CREATE_RULESET: Final = 444
_NR_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _Call:
    """A C function whose negative result is an error; looked up at its first call, so that other systems can import."""

    def __init__(self, name: str, *argument_types: Any) -> None:
        self.name = name
        self.argument_types = argument_types
        self.function: Any = None

    def __call__(self, about: str, *arguments: object) -> int:
        if self.function is None:
            self.function = self.look_up()
        result: int = self.function(*arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), f"{self.name} {about}".rstrip())
        return result

    def look_up(self) -> Any:
        function = getattr(_libc, self.name)
        function.argtypes = self.argument_types
        return function


class _Numbered(_Call):
    """A call without a libc wrapper. Every argument must be a ctypes value: syscall(2) is variadic."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number

    def look_up(self) -> Any:
        _libc.syscall.restype = ctypes.c_long
        return functools.partial(_libc.syscall, ctypes.c_long(self.number))


_unshare = _Call("unshare", ctypes.c_int)
_mount = _Call("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = _Call("umount2", ctypes.c_char_p, ctypes.c_int)
_prctl = _Call("prctl", ctypes.c_int, *([ctypes.c_ulong] * 4))
_open_tree = _Numbered("open_tree", _NR_OPEN_TREE)
_move_mount = _Numbered("move_mount", _NR_MOVE_MOUNT)
_mount_setattr = _Numbered("mount_setattr", _NR_MOUNT_SETATTR)
_landlock_create_ruleset = _Numbered("landlock_create_ruleset", _NR_LANDLOCK_CREATE_RULESET)


def unshare(flags: int) -> None:
    """Leaves the namespaces named by CLONE_NEW* flags for fresh ones. CLONE_NEWUSER needs a single thread."""
    _unshare(hex(flags), flags)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _mount(f"{source} at {target}", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def make_mounts_private() -> None:
    """Keeps later mounts on either side of this mount namespace from reaching the other."""
    _mount("/ private", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def remount_read_only(target: str, flags: int) -> None:
    """Makes one tmpfs mount read-only; `flags` are the other flags it keeps (a remount drops those not repeated)."""
    _mount(f"{target} read-only", b"none", target.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None)


def detach(target: str) -> None:
    _umount2(target, target.encode(), MNT_DETACH)


def pivot_root_here() -> None:
    """Makes the current directory (a mount point) the root and detaches the old tree: pivot_root(2), "Notes"."""
    machine = platform.machine()
    number = _NR_PIVOT_ROOT.get(machine)
    if number is None:
        raise OSError(38, f"the number of pivot_root on {machine} is unknown")
    _Numbered("pivot_root", number)("", ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    detach(".")
    os.chdir("/")


def bind_tree(source: str, target: str, attributes: int) -> None:
    """Binds `source` with everything mounted below it at `target`; MOUNT_ATTR_* apply before it becomes reachable."""
    tree = _open_tree(
        source,
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(source.encode()),
        ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE),
    )
    try:
        setting = _MountAttr(attr_set=attributes, propagation=MS_PRIVATE)
        _mount_setattr(
            source,
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
            ctypes.byref(setting),
            ctypes.c_size_t(ctypes.sizeof(setting)),
        )
        _move_mount(
            f"{source} to {target}",
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(target.encode()),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )
    finally:
        os.close(tree)


def become_subreaper() -> None:
    """Makes orphaned descendants of this process its children, so that it can reap a job's init."""
    _prctl("PR_SET_CHILD_SUBREAPER", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def keep_capabilities() -> None:
    """From now on a change of this process's user ids takes no capability from it. Needs CAP_SETPCAP."""
    _prctl("PR_SET_SECUREBITS", PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)


def landlock_abi() -> int:
    """The Landlock version the kernel offers; 0 where it is not built in or not enabled."""
    try:
        return _landlock_create_ruleset(
            "version",
            ctypes.c_void_p(None),
            ctypes.c_size_t(0),
            ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION),
        )
    except OSError:
        return 0
