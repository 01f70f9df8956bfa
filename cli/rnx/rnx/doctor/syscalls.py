"""The system calls Python has no wrapper for. Every failure is an OSError whose `filename` names the call.

Numbers from 424 on are the same on every architecture (the kernel's scripts/syscall.tbl); older calls go through libc.
Structures and constants: linux/sched.h, linux/mount.h, linux/landlock.h, linux/seccomp.h, linux/timex.h.
"""

import ctypes
import functools
import os
import signal
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_NOSUID: Final = 0x2
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000

AT_FDCWD: Final = -100
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_IDMAP = 0x1, 0x2, 0x4, 0x10_0000
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
TIME_ERROR: Final = 5  # adjtimex: "not synchronized"

_CLONE_PIDFD: Final = 0x1000
_SECCOMP_MODE_FILTER: Final = 2
_OPEN_TREE_CLONE: Final = 0x1
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_FSCONFIG_CMD_CREATE: Final = 6
_LANDLOCK_VERSION: Final = 0x1

_OPEN_TREE, _FSOPEN, _FSCONFIG, _FSMOUNT, _CLONE3, _MOUNT_SETATTR = 428, 430, 431, 432, 435, 442
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446


class _CloneArgs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    )


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


class _LandlockRuleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("handled_access_fs", "handled_access_net", "scoped"))


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


@functools.cache
def _libc() -> ctypes.CDLL:
    """Opened on first use, so that other systems can import this module."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(name: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def _numbered(name: str, number: int, *arguments: object) -> int:
    """`arguments` must be ctypes values: syscall(2) is variadic."""
    return _checked(name, _libc().syscall(ctypes.c_long(number), *arguments))


def unshare(flags: int) -> None:
    _checked("unshare", _libc().unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(f"mount {kind}", _libc().mount(*arguments))


def make_mounts_private() -> None:
    """What is mounted from now on reaches no other mount namespace."""
    _checked("mount / private", _libc().mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))


def prctl(name: str, option: int, *arguments: object) -> None:
    padded = [*arguments, *([ctypes.c_ulong(0)] * (4 - len(arguments)))]
    _checked(name, _libc().prctl(ctypes.c_int(option), *padded))


def no_new_privileges() -> None:
    prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))


def clone3() -> tuple[int, int]:
    """(pid, pidfd) of a child that has ended at once, by clone3 with CLONE_PIDFD. Needs a single thread."""
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(flags=_CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=int(signal.SIGCHLD))
    pid = _numbered("clone3", _CLONE3, ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
    if pid == 0:
        os._exit(0)
    return pid, pidfd.value


def open_tree_clone(path: str, flags: int = _AT_RECURSIVE) -> int:
    """A detached copy of the mounts at `path`; it vanishes with the descriptor."""
    wanted = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | flags)
    return _numbered("open_tree", _OPEN_TREE, ctypes.c_int(AT_FDCWD), ctypes.c_char_p(path.encode()), wanted)


def mount_setattr(tree: int, attributes: int, userns: int = 0) -> None:
    """Sets MOUNT_ATTR_* on a detached tree."""
    wanted = _MountAttr(attr_set=attributes, userns_fd=userns)
    flags = ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    arguments = (ctypes.c_int(tree), ctypes.c_char_p(b""), flags, ctypes.byref(wanted), size)
    _numbered("mount_setattr", _MOUNT_SETATTR, *arguments)


def new_tmpfs() -> int:
    """A tmpfs mounted nowhere, by fsopen, fsconfig, fsmount; it vanishes with the descriptor."""
    context = _numbered("fsopen", _FSOPEN, ctypes.c_char_p(b"tmpfs"), ctypes.c_uint(1))
    try:
        nothing = ctypes.c_void_p(None)
        create = (ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE), nothing, nothing, ctypes.c_int(0))
        _numbered("fsconfig", _FSCONFIG, *create)
        return _numbered("fsmount", _FSMOUNT, ctypes.c_int(context), ctypes.c_uint(1), ctypes.c_uint(0))
    finally:
        os.close(context)


def landlock_abi() -> int:
    """The version of Landlock. OSError: ENOSYS when it is not built in, EOPNOTSUPP when it is off."""
    arguments = (ctypes.c_void_p(None), ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION))
    return _numbered("landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, *arguments)


def landlock_scope(scopes: int) -> None:
    """Confines this process for good; needs no_new_privileges first."""
    wanted = _LandlockRuleset(scoped=scopes)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    arguments = (ctypes.byref(wanted), size, ctypes.c_uint(0))
    ruleset = _numbered("landlock_create_ruleset", _LANDLOCK_CREATE_RULESET, *arguments)
    _numbered("landlock_restrict_self", _LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))


def seccomp_refuse(number: int, errno: int) -> None:
    """From now on the system call `number` fails with `errno` in this process; needs no_new_privileges first."""
    load, equal, leave = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    steps = ((load, 0, 0, 0), (equal, 0, 1, number), (leave, 0, 0, 0x0005_0000 | errno), (leave, 0, 0, 0x7FFF_0000))
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    prctl("seccomp", PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program))


def clock_state() -> int:
    """The result of adjtimex(2), asked without changing anything; TIME_ERROR when nothing keeps the clock right."""
    timex = ctypes.create_string_buffer(512)  # larger than struct timex; modes, its first field, stays 0
    return _checked("adjtimex", _libc().adjtimex(timex))
