import errno
from pathlib import Path

import pytest

from rnx.doctor import cgroups, hierarchies
from rnx.doctor.attempts import Outcome
from rnx.doctor.caller import NUMBERS, Caller
from rnx.doctor.findings import Finding, Status
from rnx.doctor.hierarchies import Hierarchies, Hierarchy

ROOT = Caller(0, frozenset(NUMBERS))
ALL = "cpuset cpu io memory hugetlb pids\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
KNOWN = """#subsys_name\thierarchy\tnum_cgroups\tenabled
cpuset\t3\t3\t1
cpu\t1\t3\t1
cpuacct\t2\t3\t1
blkio\t7\t3\t1
memory\t4\t36\t0
"""
SWAP = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n"


def v1_mounts(*names: str, root: str = "/") -> str:
    comma = r"\054"  # as proc(5) escapes it
    return "".join(
        f"3{place} 31 0:{place} {root} /sys/fs/cgroup/{name.replace(',', comma)} rw - cgroup cgroup rw,{name}\n"
        for place, name in enumerate(names)
    )


def membership(*names: str, path: str = "/") -> str:
    return "".join(f"{place}:{name}:{path}\n" for place, name in enumerate(names))


V1_NAMES = ("cpu,cpuacct", "cpuset", "memory", "pids", "blkio", "name=systemd")
HYBRID = hierarchies.parse(
    v1_mounts(*V1_NAMES) + V2_MOUNT.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "),
    membership(*V1_NAMES, path="/a") + "0::/b\n",
    "hugetlb\n",
)
V2 = hierarchies.parse(V2_MOUNT, "0::/system.slice/x\n", ALL)


def without(found: Hierarchies, *names: str) -> Hierarchies:
    return Hierarchies({name: at for name, at in found.v1.items() if name not in names}, found.unified, found.available)


def there(_path: str) -> bool:
    return True


def test_v2_is_read() -> None:
    assert (V2.layout, V2.uses_v2) == ("v2", True)
    assert V2.unified == Hierarchy("/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/x")


def test_hybrid_is_read() -> None:
    assert (HYBRID.layout, HYBRID.uses_v2) == ("hybrid", False)
    assert HYBRID.v1["cpuacct"] == Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a")
    assert "name=systemd" not in HYBRID.v1
    assert HYBRID.unified == Hierarchy("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/b")


def test_the_part_that_a_container_mounts_is_taken_off() -> None:
    mounts = v1_mounts("memory", root="/docker/1")
    assert hierarchies.parse(mounts, "4:memory:/docker/1/x\n", "").v1["memory"].own == "/sys/fs/cgroup/memory/x"
    assert hierarchies.parse(mounts, "4:memory:/docker/1\n", "").v1["memory"].own == "/sys/fs/cgroup/memory"
    assert hierarchies.parse(mounts, "4:memory:/docker/12\n", "").v1["memory"].own is None
    assert hierarchies.parse(mounts, "4:memory:/../2\n", "").v1["memory"].own is None


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (V2, Status.OK, "v2"),
        (HYBRID, Status.OK, "hybrid: v1 and v2 side by side, jobs use v1"),
        (hierarchies.parse(v1_mounts("cpu"), membership("cpu"), ""), Status.OK, "v1"),
        (hierarchies.parse("", "", ""), Status.FAILED, "no cgroup hierarchy is mounted"),
    ],
)
def test_version(found: Hierarchies, status: Status, text: str) -> None:
    finding = cgroups.version(found)
    assert (finding.status, finding.found) == (status, text)


@pytest.mark.parametrize("name", cgroups.CONTROLLERS)
def test_every_controller_is_found(name: str) -> None:
    assert cgroups.controller(name, V2, KNOWN, there).status is Status.OK
    assert cgroups.controller(name, HYBRID, KNOWN, there).status is Status.OK


def missing(name: str, found: Hierarchies) -> Finding:
    return cgroups.controller(name, found, KNOWN, there)


def test_a_controller_that_is_switched_off_at_boot() -> None:
    finding = missing("memory", without(HYBRID, "memory"))
    assert (finding.status, finding.found) == (Status.FAILED, "memory is not mounted")
    assert "cgroup_enable=memory" in finding.cure
    finding = missing("memory", hierarchies.parse(V2_MOUNT, "0::/\n", "cpu io pids\n"))
    assert (finding.status, "cgroup_enable=memory" in finding.cure) == (Status.FAILED, True)


def test_a_controller_that_only_has_to_be_mounted() -> None:
    finding = missing("io", without(HYBRID, "blkio"))
    assert "`mkdir -p /sys/fs/cgroup/blkio && mount -t cgroup -o blkio cgroup /sys/fs/cgroup/blkio`" in finding.cure
    finding = missing("cpu", without(HYBRID, "cpuacct"))
    assert (finding.status, finding.found) == (Status.FAILED, "cpuacct is not mounted")


def test_a_controller_that_the_kernel_does_not_have() -> None:
    finding = missing("pids", without(HYBRID, "pids"))
    assert "CONFIG_CGROUP_PIDS=y" in finding.cure


def test_a_controller_that_is_in_the_other_version() -> None:
    found = Hierarchies(without(HYBRID, "memory").v1, HYBRID.unified, frozenset({"memory"}))
    assert "systemd.unified_cgroup_hierarchy=1" in missing("memory", found).cure


def test_without_cpuset_jobs_run() -> None:
    assert missing("cpuset", without(HYBRID, "cpuset")).status is Status.WARNING


@pytest.mark.parametrize(("name", "option"), [("cpu", "CONFIG_CFS_BANDWIDTH"), ("io", "CONFIG_BLK_DEV_THROTTLING")])
def test_a_part_of_a_controller_that_was_left_out(name: str, option: str) -> None:
    finding = cgroups.controller(name, HYBRID, KNOWN, lambda _path: False)
    assert (finding.status, option in finding.cure) == (Status.FAILED, True)


def test_a_group_is_made_and_removed(tmp_path: Path) -> None:
    assert cgroups.make_and_remove(tmp_path).worked
    assert list(tmp_path.iterdir()) == []
    assert cgroups.make_and_remove(tmp_path / "none").errno == errno.ENOENT


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.EROFS, "mounted read-only"),
        (errno.EAGAIN, "limited above"),
        (errno.ENOSPC, "no cores"),
        (errno.EACCES, "refuses it"),
    ],
)
def test_why_no_group_can_be_made(code: int, cause: str) -> None:
    finding = cgroups.groups_of({"/a": Outcome(0, "/a"), "/b": Outcome(code, "said so")}, ROOT)
    assert (finding.status, finding.found) == (Status.FAILED, "none can be made in /b: said so")
    assert cause in finding.cause


def test_who_may_not_make_groups_learns_nothing() -> None:
    outcomes = {"/a": Outcome(errno.EACCES, "no")}
    assert cgroups.groups_of(outcomes, Caller(1000, frozenset())).status is Status.WARNING
    assert cgroups.groups_of(outcomes, Caller(0, frozenset(NUMBERS) - {"DAC_OVERRIDE"})).status is Status.WARNING


def test_groups_need_a_hierarchy_that_shows_us() -> None:
    assert cgroups.groups(hierarchies.parse("", "", ""), ROOT).status is Status.FAILED
    hidden = hierarchies.parse(V2_MOUNT.replace(" / ", " /docker/1 ", 1), "0::/docker/2\n", ALL)
    finding = cgroups.groups(hidden, ROOT)
    assert (finding.status, "--cgroupns=host" in finding.cure) == (Status.FAILED, True)


def test_swap_that_is_not_counted(tmp_path: Path) -> None:
    uncounted = Hierarchies({"memory": Hierarchy(str(tmp_path), str(tmp_path))}, None, frozenset())
    assert cgroups.swap(uncounted, SWAP.splitlines()[0]).found == "not needed: no swap is in use"
    finding = cgroups.swap(uncounted, SWAP)
    assert (finding.status, "swapaccount=1" in finding.cure) == (Status.FAILED, True)
    (tmp_path / "memory.memsw.limit_in_bytes").touch()
    assert cgroups.swap(uncounted, SWAP).status is Status.OK


def test_swap_on_v2_is_asked_of_a_child(tmp_path: Path) -> None:
    v2 = Hierarchies({}, Hierarchy(str(tmp_path), str(tmp_path)), hierarchies.V2_REQUIRED)
    assert cgroups.swap(v2, SWAP).status is Status.FAILED
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice/memory.swap.max").touch()
    assert cgroups.swap(v2, SWAP).status is Status.OK
