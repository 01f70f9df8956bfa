import errno

import pytest

from rnx.doctor import caller
from rnx.doctor.attempts import NO_ERRNO, Outcome
from rnx.doctor.caller import NUMBERS, Caller, Need
from rnx.doctor.findings import Status

EVERYTHING = frozenset(NUMBERS)
ROOT = Caller(0, EVERYTHING)
NEED = Need(Status.FAILED, "no job starts", since=(5, 12), option="CONFIG_THING", limit="user.max_mnt_namespaces")
NEW = (6, 1)


def status(uid: int = 0, effective: str = "000001ffffffffff", seccomp: int = 0) -> str:
    return f"Name:\trnx\nUid:\t1000\t{uid}\t0\t0\nCapEff:\t{effective}\nSeccomp:\t{seccomp}\n"


def test_the_process_is_read() -> None:
    assert caller.parse(status()) == ROOT
    assert caller.parse(status(uid=7, effective="0")) == Caller(7, frozenset())
    assert caller.parse(status(effective="000001fffeffffff")).capabilities == EVERYTHING - {"SYS_RESOURCE"}
    assert caller.parse(status(seccomp=2), "docker-default (enforce)\n").profile == "docker-default (enforce)"
    assert caller.parse(status(seccomp=2)).filtered
    assert not caller.parse(status(seccomp=1)).filtered
    assert caller.parse(status(), "unconfined\n\0").profile == ""


def test_root_with_everything_is_fit() -> None:
    assert caller.privileges(ROOT).status is Status.OK


@pytest.mark.parametrize("name", caller.REQUIRED)
def test_a_missing_capability_is_named_with_what_it_is_for(name: str) -> None:
    finding = caller.privileges(Caller(0, EVERYTHING - {name}))
    assert finding.status is Status.FAILED
    assert finding.found == f"root without CAP_{name}"
    assert caller.REQUIRED[name] in finding.cause
    assert f"--cap-add {name}`" in finding.cure


def test_a_capability_that_is_only_wanted_is_a_warning() -> None:
    finding = caller.privileges(Caller(0, EVERYTHING - {"SYS_RESOURCE"}))
    assert (finding.status, finding.found) == (Status.WARNING, "root without CAP_SYS_RESOURCE")


def test_who_is_not_root_is_told_to_be() -> None:
    finding = caller.privileges(Caller(1000, frozenset()))
    assert finding.status is Status.FAILED
    assert "not root" in finding.found
    assert "`sudo rnx doctor`" in finding.cure


@pytest.mark.parametrize("me", [Caller(1000, frozenset()), Caller(0, EVERYTHING - {"SYS_ADMIN"})])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_a_refusal_for_lack_of_privileges_is_no_gap_of_the_machine(me: Caller, code: int) -> None:
    finding = caller.explained("thing", Outcome(code, "thing: no"), NEED, me, NEW)
    assert finding.status is Status.WARNING
    assert finding.found.startswith("cannot be tried without ")
    assert finding.cause == "see privileges"


@pytest.mark.parametrize(
    ("outcome", "me", "kernel", "cause", "cure"),
    [
        (errno.EPERM, ROOT, NEW, "security module", "docker run --privileged"),
        (errno.EPERM, Caller(0, EVERYTHING, filtered=True), NEW, "a seccomp filter refuses", "docker run --privileged"),
        (errno.EACCES, Caller(0, EVERYTHING, profile="box"), NEW, 'the security profile "box" refuses', "docker run"),
        (errno.ENOSYS, ROOT, (5, 4), "too old, it came with Linux 5.12", "boot Linux 5.12 or later"),
        (errno.ENOSYS, Caller(0, EVERYTHING, filtered=True), NEW, "a seccomp filter hides it", "seccomp=unconfined"),
        (errno.ENOSYS, ROOT, NEW, "without CONFIG_THING", "CONFIG_THING=y"),
        (errno.EINVAL, ROOT, NEW, "without CONFIG_THING", "CONFIG_THING=y"),
        (errno.ENOSPC, ROOT, NEW, "/proc/sys/user/max_mnt_namespaces", "sysctl -w user.max_mnt_namespaces="),
        (errno.EROFS, ROOT, NEW, "read-only", "docker run --privileged"),
        (NO_ERRNO, ROOT, NEW, "unexpected", "dmesg"),
    ],
)
def test_every_refusal_has_its_cause_and_cure(
    outcome: int, me: Caller, kernel: tuple[int, int], cause: str, cure: str
) -> None:
    finding = caller.explained("thing", Outcome(outcome, "thing: said so"), NEED, me, kernel)
    assert (finding.check, finding.status, finding.found) == ("thing", Status.FAILED, "thing: said so")
    assert cause in finding.cause
    assert finding.cause.endswith("; no job starts")
    assert cure in finding.cure
