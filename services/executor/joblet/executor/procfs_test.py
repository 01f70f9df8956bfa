import os
import resource
from pathlib import Path

import pytest

from joblet.executor import procfs
from joblet.executor.procfs import Mount

MOUNTS = """\
400 399 0:50 / / ro,nosuid,nodev - tmpfs joblet rw,size=32768k
401 400 254:0 /usr /usr ro,nosuid,nodev,relatime master:7 - ext4 /dev/vda rw
402 400 0:51 /null /proc/kcore ro - tmpfs joblet rw
403 400 0:52 / /work/a\\040b rw - tmpfs x\\040y rw
"""


def test_mounts() -> None:
    root, usr, mask, odd = procfs.parse_mounts(MOUNTS)
    assert root == Mount("/", frozenset({"ro", "nosuid", "nodev"}), "tmpfs", "/", frozenset({"rw", "size=32768k"}))
    assert (root.propagates, usr.propagates) == (False, True)
    assert (usr.path, usr.filesystem, usr.root) == ("/usr", "ext4", "/usr")
    assert (mask.path, mask.root) == ("/proc/kcore", "/null")
    assert odd.path == "/work/a b"


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 40000])
def test_a_piece_that_fills_the_buffer_is_not_all(tmp_path: Path, size: int) -> None:
    (tmp_path / "status").write_text("x" * size)
    assert procfs.read_at_once(f"{tmp_path}/status") == "x" * size


def test_cgroups_of_v1_and_v2() -> None:
    text = "9:name=systemd:/\n2:cpu,cpuacct:/joblet/x\n1:memory:/a:b\n0::/unified\n"
    assert procfs.parse_cgroups(text) == {
        "name=systemd": "/", "cpu": "/joblet/x", "cpuacct": "/joblet/x", "memory": "/a:b", "": "/unified",
    }  # fmt: skip


def test_this_process_reads_itself() -> None:
    directory = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    try:
        process = procfs.read_process(directory)
    finally:
        os.close(directory)
    assert process.status["Pid"] == str(os.getpid())
    assert process.namespaces["user"] == Path("/proc/self/ns/user").stat().st_ino
    assert process.namespaces == procfs.own_namespaces()
    assert any(mount.path == "/" for mount in process.mounts)
    assert {0, 1, 2} <= process.descriptors
    assert process.directory_inside
    soft_limits = {name: soft for name, soft, _ in process.rlimits}
    assert soft_limits["Max open files"] == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_some_of_the_status() -> None:
    whole = procfs.read_status(os.getpid())
    names = ("Name", "Groups", "NSsid", "Seccomp")
    assert procfs.read_status(os.getpid(), *names, "nothing") == {name: whole[name] for name in names}


def test_limits() -> None:
    text = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        "Max nice priority         0                    1                    \n"
    )
    assert procfs.parse_limits(text) == (
        ("Max cpu time", "unlimited", "unlimited"), ("Max nice priority", "0", "1"),
    )  # fmt: skip


def test_start_of_a_process_that_is_not_there() -> None:
    assert procfs.start_ticks(os.getpid()) is not None
    assert procfs.start_ticks(2**22 + 1) is None  # above the largest pid there can be


def test_same_program() -> None:
    assert procfs.same_program(os.getpid(), os.getpid())
    assert not procfs.same_program(os.getpid(), 2**22 + 1)
