"""What the seccomp programs refuse, number by number, and that no rule can be missing without a test that fails."""

import platform
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from joblet.executor.jobspec import Profile
from joblet.executor.seccomp_for_tests import ARCHITECTURES, Call, Program, answer, mutations, programs

pytestmark = pytest.mark.root

MACHINE = platform.machine()
LAST = 450
X32 = 0x40000000
REFUSED = frozenset({
    "_sysctl", "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "create_module",
    "delete_module", "fanotify_init", "fanotify_mark", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick",
    "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp",
    "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "modify_ldt", "mount", "mount_setattr", "move_mount",
    "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root", "process_madvise",
    "query_module", "quotactl", "quotactl_fd", "reboot", "request_key", "setdomainname", "sethostname", "setns",
    "settimeofday", "swapoff", "swapon", "sysfs", "syslog", "umount2", "unshare", "uselib", "userfaultfd", "ustat",
    "vhangup",
})  # fmt: skip
"""EPERM whatever the arguments; name_to_handle_at, too, but for builds."""
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
FAMILIES = range(46)
ALLOWED_FAMILIES = {1, 2, 10, 16}  # unix, inet, inet6, netlink
PERSONALITIES = {0: True, 8: True, 0x20000: True, 0xFFFFFFFF: True, 0x40000: False, 0x400000: False, 1: False}
TERMINAL = {0x5412: False, 0x541C: False, 0x5401: True, (7 << 32) + 0x5412: False}


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    """System call numbers of this architecture, from its headers."""
    headers = ["gcc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"]
    printed = subprocess.run(headers, capture_output=True, text=True, check=True, timeout=120).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", printed)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Profile, Program]:
    return programs(tmp_path_factory.mktemp("jbtest-seccomp"))


def expectations(numbers: dict[str, int], profile: Profile) -> Iterator[tuple[Call, str]]:
    """Every number there can be, and those whose arguments decide."""
    refused = {numbers[name] for name in REFUSED if name in numbers}
    if profile is Profile.DEFAULT:
        refused.add(numbers["name_to_handle_at"])
    conditional = {numbers[name] for name in ("clone", "socket", "socketpair", "personality", "ioctl")}
    known = {number for name, number in numbers.items() if number <= LAST}
    missing = {numbers["clone3"], numbers["io_setup"]}
    for number in known - conditional - missing:
        yield Call(number, architecture=MACHINE), "EPERM" if number in refused else "allow"
    for number in (*missing, *range(LAST + 1, LAST + 100), *range(X32, X32 + 600), 0x7FFFFFFF, 0xFFFFFFFF):
        yield Call(number, architecture=MACHINE), "ENOSYS"
    for other in ARCHITECTURES.keys() - {MACHINE}:
        yield from ((Call(number, architecture=other), "kill") for number in range(600))
    yield from _of_arguments(numbers)


def _of_arguments(numbers: dict[str, int]) -> Iterator[tuple[Call, str]]:
    def call(name: str, *arguments: int) -> Call:
        return Call(numbers[name], arguments, MACHINE)

    yield call("clone", 17), "allow"  # SIGCHLD
    yield call("clone", 0x3D0F00), "allow"  # what pthread_create wants
    yield from ((call("clone", flag | 17), "EPERM") for flag in NAMESPACES)
    for family in FAMILIES:
        wanted = "allow" if family in ALLOWED_FAMILIES else "EAFNOSUPPORT"
        yield call("socket", family, 1), wanted
        yield call("socketpair", family, 1), wanted
    yield from ((call("personality", p), "allow" if allowed else "EPERM") for p, allowed in PERSONALITIES.items())
    yield from ((call("ioctl", 1, r), "allow" if allowed else "EPERM") for r, allowed in TERMINAL.items())


@pytest.mark.parametrize("profile", list(Profile))
def test_every_number(whole: dict[Profile, Program], numbers: dict[str, int], profile: Profile) -> None:
    program = whole[profile]
    wrong = {call: answer(program, call) for call, wanted in expectations(numbers, profile)
             if answer(program, call) != wanted}  # fmt: skip
    assert wrong == {}


def test_numbers_nobody_has_named(whole: dict[Profile, Program], numbers: dict[str, int]) -> None:
    """Below the last known one, a number without a name is one the kernel does not have."""
    unnamed = set(range(LAST + 1)) - set(numbers.values())
    answers = {answer(whole[Profile.DEFAULT], Call(number, architecture=MACHINE)) for number in unnamed}
    assert answers <= {"allow", "ENOSYS"}


def test_the_whole_list_of_calls_is_refused_somewhere() -> None:
    refused = {mutation.name.removesuffix(" not refused") for mutation in mutations() if "not refused" in mutation.name}
    assert refused == REFUSED | {"name_to_handle_at"}


def test_no_rule_can_be_missing(tmp_path: Path, numbers: dict[str, int]) -> None:
    """Each mutation changes an answer that `expectations` names. On one architecture its own calls are compiled."""
    chosen = list(mutations())
    if MACHINE != "x86_64":
        chosen = [mutation for mutation in chosen if mutation.name.removesuffix(" not refused") in numbers]

    def missed(name: str, built: dict[Profile, Program]) -> bool:
        program = built[Profile.DEFAULT]
        return all(answer(program, call) == wanted for call, wanted in expectations(numbers, Profile.DEFAULT))

    with ThreadPoolExecutor(2) as pool:
        built = pool.map(lambda mutation: (mutation.name, programs(tmp_path, mutation)), chosen)
        survivors = [name for name, made in built if missed(name, made)]
    assert survivors == []
