import pytest

from joblet.executor.cgroup.driver import CgroupError
from joblet.executor.cgroup.hierarchies import Hierarchy, membership, parse

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
HYBRID_OWN = "9:name=systemd:/\n4:memory:/vm/a1\n2:cpuacct:/\n1:cpu:/\n0::/\n"

DOCKER_V1 = """\
700 690 0:29 /docker/c1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct
701 690 0:32 /docker/c1 /sys/fs/cgroup/memory ro,nosuid master:12 - cgroup cgroup rw,memory
"""
DOCKER_V1_OWN = "5:cpu,cpuacct:/docker/c1\n4:memory:/docker/c1/inner\n"

SYSTEMD_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
SYSTEMD_V2_OWN = "0::/system.slice/joblet-executor.service\n"


def test_membership_splits_hierarchies_with_several_controllers() -> None:
    assert membership("5:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c:d\n") == {
        "cpu": "/a",
        "cpuacct": "/a",
        "name=systemd": "/b",
        "": "/c:d",
    }


def test_hybrid() -> None:
    found = parse(HYBRID, membership(HYBRID_OWN))
    assert sorted(found.v1) == ["cpu", "cpuacct", "memory"]
    memory = found.v1["memory"]
    assert memory == Hierarchy(("memory",), "/sys/fs/cgroup/memory", "/", "/vm/a1")
    assert memory.path_of("joblet") == "/vm/a1/joblet"
    assert memory.directory("/vm/a1/joblet") == "/sys/fs/cgroup/memory/vm/a1/joblet"
    assert memory.path_of("/joblet") == "/joblet"
    assert found.v1["cpu"].directory(found.v1["cpu"].path_of("joblet")) == "/sys/fs/cgroup/cpu/joblet"
    assert found.unified == Hierarchy((), "/sys/fs/cgroup/unified", "/", "/")


def test_a_container_sees_only_its_part() -> None:
    found = parse(DOCKER_V1, membership(DOCKER_V1_OWN))
    assert found.unified is None
    assert found.v1["cpu"] is found.v1["cpuacct"]
    cpu, memory = found.v1["cpu"], found.v1["memory"]
    assert cpu.path_of("joblet") == "/docker/c1/joblet"
    assert cpu.directory("/docker/c1/joblet") == "/sys/fs/cgroup/cpu,cpuacct/joblet"
    assert memory.directory(memory.path_of("joblet")) == "/sys/fs/cgroup/memory/inner/joblet"
    assert memory.path_of("/joblet") == "/docker/c1/joblet"


def test_unified() -> None:
    found = parse(SYSTEMD_V2, membership(SYSTEMD_V2_OWN))
    assert found.v1 == {}
    assert found.unified is not None
    path = found.unified.path_of("joblet")
    assert path == "/system.slice/joblet-executor.service/joblet"
    assert found.unified.directory(path) == f"/sys/fs/cgroup{path}"


def test_mount_points_may_hold_escaped_characters() -> None:
    line = "30 23 0:26 / /mnt/my\\040cgroups rw - cgroup2 cgroup2 rw\n"
    unified = parse(line, {"": "/"}).unified
    assert unified is not None
    assert unified.directory("/joblet") == "/mnt/my cgroups/joblet"


@pytest.mark.parametrize(
    ("root", "own"), [("/docker/c1", "/docker/c10"), ("/docker/c1", "/"), ("/", "/../outside"), ("/../..", "/")]
)
def test_a_mount_that_does_not_show_us_is_refused(root: str, own: str) -> None:
    with pytest.raises(CgroupError, match="does not show the executor's own cgroup"):
        parse(f"30 23 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", {"": own})
