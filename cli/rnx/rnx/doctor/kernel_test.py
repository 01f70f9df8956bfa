import errno

import pytest

from rnx.doctor import kernel
from rnx.doctor.attempts import Outcome
from rnx.doctor.caller import NUMBERS, Caller
from rnx.doctor.findings import Status

ROOT = Caller(0, frozenset(NUMBERS))
RELEASE = "6.1.0-13-amd64"
NODEV = "nodev\tsysfs\nnodev\ttmpfs\n\text4\n"


def test_versions() -> None:
    assert kernel.version(RELEASE) == (6, 1)
    assert kernel.version("5.15.167.4-microsoft-standard-WSL2") == (5, 15)
    with pytest.raises(ValueError, match="not a version"):
        kernel.version("unknown")


@pytest.mark.parametrize(("release", "status"), [("5.11.22", Status.FAILED), ("5.12.0", Status.OK), ("6.1", Status.OK)])
def test_the_oldest_kernel(release: str, status: Status) -> None:
    assert kernel.kernel(release).status is status


def test_namespaces_that_are_refused_are_listed() -> None:
    good = {"mount": Outcome(0, ""), "pid": Outcome(0, "")}
    assert kernel.namespaces_of(good, ROOT, RELEASE).found == "mount, pid can be made"
    bad = {**good, "network": Outcome(errno.EINVAL, "unshare: invalid argument"), "uts": Outcome(errno.EINVAL, "no")}
    finding = kernel.namespaces_of(bad, ROOT, RELEASE)
    assert (finding.status, finding.found) == (Status.FAILED, "network, uts: unshare: invalid argument")
    assert "CONFIG_NET_NS" in finding.cause


def test_a_limit_of_namespaces_is_named_as_sysctl_has_it() -> None:
    finding = kernel.namespaces_of({"mount": Outcome(errno.ENOSPC, "unshare: no space")}, ROOT, RELEASE)
    assert "sysctl -w user.max_mnt_namespaces" in finding.cure


def test_as_many_user_namespaces_as_jobs() -> None:
    assert kernel.enough_user_namespaces("mapped", 100, 100).status is Status.OK
    finding = kernel.enough_user_namespaces("mapped", 99, 100)
    assert (finding.status, finding.found) == (Status.FAILED, "99 allowed, 100 needed")
    assert "`sysctl -w user.max_user_namespaces=4096`" in finding.cure


def test_overlayfs_is_not_tried_when_that_would_load_a_module() -> None:
    module = "kernel/fs/overlayfs/overlay.ko.xz: kernel/fs/other.ko\n"
    finding = kernel.overlayfs(ROOT, RELEASE, NODEV, module)
    assert (finding.status, "module" in finding.found) == (Status.OK, True)
    finding = kernel.overlayfs(ROOT, RELEASE, NODEV, "")
    assert finding.status is Status.WARNING
    assert "CONFIG_OVERLAY_FS" in finding.cause
    assert "modprobe overlay" in finding.cure


@pytest.mark.parametrize(
    ("outcome", "status", "found", "cure"),
    [
        (Outcome(0, "7"), Status.OK, "ABI 7, sockets and signals can be scoped", ""),
        (Outcome(0, "6"), Status.OK, "ABI 6, sockets and signals can be scoped", ""),
        (Outcome(0, "5"), Status.WARNING, "ABI 5, without scoping", "boot Linux 6.12"),
        (Outcome(errno.EOPNOTSUPP, "no"), Status.WARNING, "switched off", "lsm="),
        (Outcome(errno.ENOSYS, "no"), Status.WARNING, "no", "CONFIG_SECURITY_LANDLOCK=y"),
    ],
)
def test_landlock(outcome: Outcome, status: Status, found: str, cure: str) -> None:
    finding = kernel.landlock(outcome, ROOT, RELEASE)
    assert (finding.status, finding.found) == (status, found)
    assert cure in finding.cure


def test_inotify_limits() -> None:
    assert kernel.inotify(128, 8192).status is Status.OK
    finding = kernel.inotify(8, 100)
    assert finding.status is Status.WARNING
    assert "sysctl -w fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=65536" in finding.cure
    assert "instances" not in kernel.inotify(128, 100).cure
