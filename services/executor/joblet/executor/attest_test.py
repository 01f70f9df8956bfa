from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from joblet.executor.attest import BUILD_CAPABILITIES, Expectation, Observation, capabilities_of, facts, mismatches
from joblet.executor.cgroup.limits import Limits
from joblet.executor.jobspec import Profile
from joblet.executor.procfs import NAMESPACES, Mount, Process

BASE = 1_879_048_192
HOST = dict(zip(NAMESPACES, range(100, 107), strict=True))
INSIDE = dict(zip(NAMESPACES, range(200, 207), strict=True))
IDS = "\t".join([str(BASE + 1000)] * 4)
NO_CAPABILITY = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)
SAFE = frozenset({"nosuid", "nodev"})
MOUNTS = (
    Mount("/", SAFE | {"ro"}, "tmpfs", "/"),
    Mount("/usr", SAFE | {"ro", "relatime"}, "ext4", "/usr"),
    Mount("/usr/local", SAFE | {"ro"}, "ext4", "/"),
    Mount("/dev", frozenset({"ro", "nosuid", "noexec"}), "tmpfs", "/"),
    Mount("/proc", SAFE | {"rw", "noexec"}, "proc", "/"),
    Mount("/proc/sys", SAFE | {"ro", "noexec"}, "proc", "/sys"),
    Mount("/proc/kcore", frozenset({"rw", "nosuid"}), "tmpfs", "/null"),
    Mount("/dev/pts", frozenset({"rw", "nosuid", "noexec"}), "devpts", "/", frozenset({"rw", "mode=620", "max=256"})),
    Mount("/dev/shm", SAFE | {"rw"}, "tmpfs", "/"),
    Mount("/tmp", SAFE | {"rw"}, "tmpfs", "/", frozenset({"rw", "size=1024k"})),
    Mount("/work", SAFE | {"rw"}, "tmpfs", "/", frozenset({"rw", "size=1024k", "mode=700", "uid=7"})),
)
LIMITS = Limits(cpu_percent=50, cpu_cores=None, memory_bytes=64 << 20, max_processes=20)
EXPECTED = Expectation(
    init_pid=7, host_id=BASE + 1000, id_map=f"0 {BASE} 65536", user_namespace=INSIDE["user"],
    shared_namespaces=frozenset(), host_namespaces=HOST, capabilities=capabilities_of(Profile.DEFAULT),
    bound_paths=("/usr",), cgroups={"memory": "/joblet/j"}, limits=replace(LIMITS, memory_bytes=(64 << 20) + 1),
    template=300, proc_masks=frozenset({"/proc/sys", "/proc/kcore"}), nofile=1000, seccomp_filters=1,
    settings={"/tmp": {"size": "1024k"}, "/work": {"size": "1024k", "mode": "700", "uid": "7"},
              "/dev/pts": {"mode": "620", "max": "256"}},
)  # fmt: skip
PROCESS = Process(
    status={"PPid": "7", "Uid": IDS, "Gid": IDS, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2", "Threads": "1",
            "Name": "jobinit", "Seccomp_filters": "1", "SigBlk": "fffffffffffbfeff", "SigIgn": "0" * 16,
            "SigCgt": "0" * 16, "Umask": "0022", "NSpid": "9\t2", "NSsid": "9\t2", **NO_CAPABILITY},
    uid_map=f"0 {BASE} 65536", gid_map=f"0 {BASE} 65536", namespaces=INSIDE, mounts=MOUNTS,
    cgroups={"memory": "/joblet/j", "pids": "/elsewhere"}, oom_score_adj="500", personality="00000000",
    descriptors=frozenset({0, 1, 2, 4, 51}), output="pipe 0222 0", directory_inside=True,
    rlimits=(*((f"Max {name}", "0", "0") for name in ("core file size", "nice priority", "realtime priority")),
             ("Max open files", "1000", "1000"), ("Max locked memory", "65536", "65536"),
             ("Max pending signals", "4096", "4096"), ("Max msgqueue size", "819200", "819200")),
)  # fmt: skip
INIT = {"NSpid": "7\t1", "NSsid": "7\t1", "Groups": ""}


def found(
    expected: Expectation = EXPECTED, limits: Limits = LIMITS, init: Mapping[str, str] = INIT, **changes: Any
) -> list[str]:
    return list(mismatches(Observation(replace(PROCESS, **changes), init, limits), expected))


def with_status(**changes: str) -> dict[str, str]:
    return {**PROCESS.status, **changes}


def with_mount(path: str, **changes: Any) -> tuple[Mount, ...]:
    return tuple(mount._replace(**changes) if mount.path == path else mount for mount in MOUNTS)


def test_what_was_ordered_passes() -> None:
    assert found() == []


def test_the_facts_that_are_kept() -> None:
    kept = facts(Observation(PROCESS, INIT, LIMITS), EXPECTED)
    assert kept["CapEff"] == "0" * 16
    assert kept["uid_map"] == f"0 {BASE} 65536"
    assert kept["ns.user"] == str(INSIDE["user"])
    assert kept["cgroup.memory"] == "/joblet/j"
    assert kept["limit.memoryBytes"] == str(64 << 20)
    assert "PPid" not in kept


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"status": with_status(PPid="1")}, "PPid is 1, not 7"),
        ({"status": with_status(Uid="0\t0\t0\t0")}, "Uid is 0"),
        ({"status": with_status(Uid=IDS.replace(str(BASE + 1000), "0", 1))}, "Uid is 0"),
        ({"status": with_status(Gid="0\t0\t0\t0")}, "Gid is 0"),
        ({"status": with_status(Groups="0")}, "Groups is 0, not empty"),
        ({"status": with_status(CapBnd="000001ffffffffff")}, "CapBnd is 000001ffffffffff"),
        ({"status": with_status(CapAmb="0000000000000001")}, "CapAmb is 0000000000000001"),
        ({"status": with_status(NoNewPrivs="0")}, "NoNewPrivs is 0, not 1"),
        ({"status": with_status(Seccomp="0")}, "Seccomp is 0, not 2"),
        ({"status": {k: v for k, v in PROCESS.status.items() if k != "Seccomp"}}, "Seccomp is missing, not 2"),
        ({"uid_map": "0 0 4294967295"}, "uid_map is 0 0 4294967295"),
        ({"gid_map": ""}, "gid_map is empty"),
        ({"namespaces": {**INSIDE, "pid": HOST["pid"]}}, "pid namespace is the node's"),
        ({"namespaces": {**INSIDE, "net": HOST["net"]}}, "net namespace is the node's"),
        ({"namespaces": {**INSIDE, "user": 999}}, "user namespace is not the one prepared"),
        ({"namespaces": {k: v for k, v in INSIDE.items() if k != "ipc"}}, "ipc namespace is the node's"),
        ({"mounts": MOUNTS[1:]}, "mount / is missing"),
        ({"mounts": (*MOUNTS, Mount("/mnt", SAFE | {"ro"}, "ext4", "/"))}, "mount /mnt (ext4) is not expected"),
        ({"mounts": (*MOUNTS, Mount("/usrx", SAFE | {"ro"}, "ext4", "/"))}, "mount /usrx (ext4) is not expected"),
        ({"mounts": with_mount("/usr", options=SAFE)}, "mount /usr lacks ro"),
        ({"mounts": with_mount("/usr/local", options=SAFE)}, "mount /usr/local lacks ro"),
        ({"mounts": with_mount("/usr", options=frozenset({"ro"}))}, "mount /usr lacks nodev,nosuid"),
        ({"mounts": with_mount("/", filesystem="ext4")}, "mount / is of ext4, not tmpfs"),
        ({"mounts": with_mount("/work", options=frozenset({"rw"}))}, "mount /work lacks nodev,nosuid"),
        ({"mounts": with_mount("/proc/sys", options=SAFE)}, "mount /proc/sys lacks ro"),
        ({"mounts": with_mount("/proc/sys", filesystem="ext4")}, "mount /proc/sys is of ext4"),
        ({"mounts": with_mount("/proc", filesystem="tmpfs")}, "mount /proc is of tmpfs, not proc"),
        ({"status": with_status(Seccomp_filters="2")}, "Seccomp_filters is 2, not 1"),
        ({"status": with_status(SigIgn="0000000000000200")}, "SigIgn is 0000000000000200"),
        ({"status": with_status(SigBlk="0" * 16)}, "SigBlk is 0000000000000000"),
        ({"status": with_status(Umask="0000")}, "Umask is 0000, not 0022"),
        ({"status": with_status(NSsid="7\t1")}, "the command has no session of its own"),
        ({"init": {**INIT, "NSsid": "5\t0"}}, "init has no session of its own"),
        ({"init": {**INIT, "Groups": "42"}}, "Groups of init is 42, not empty"),
        ({"namespaces": {**INSIDE, "mnt": 300}}, "mnt namespace is the one that all jobs start from"),
        ({"mounts": tuple(mount for mount in MOUNTS if mount.path != "/proc/sys")}, "mount /proc/sys is missing"),
        ({"mounts": with_mount("/usr", propagates=True)}, "mount /usr is shared with other mount namespaces"),
        ({"mounts": with_mount("/tmp", settings=frozenset({"size=2048k"}))}, "/tmp has size=2048k, not 1024k"),
        ({"mounts": with_mount("/tmp", settings=frozenset({"size=1024k", "mode=777"}))}, "/tmp has mode=777, not none"),
        ({"mounts": with_mount("/dev/pts", settings=frozenset({"mode=620"}))}, "/dev/pts has max=, not 256"),
        ({"descriptors": frozenset({0, 1, 2, 4, 7, 51})}, "open descriptors are 0 1 2 4 7 51, not 0 1 2 4 51"),
        ({"output": "pipe 0666 0"}, "output is pipe 0666 0, not pipe 0222 0"),
        ({"directory_inside": False}, "working directory is on no mount of the job"),
        ({"oom_score_adj": "0"}, "oom_score_adj is 0, not 500"),
        ({"personality": "00040000"}, "personality is 00040000, not 0"),
        ({"rlimits": (*PROCESS.rlimits, ("Max core file size", "0", "unlimited"))},
         "Max core file size is 0 and unlimited, not 0"),
        ({"rlimits": (*PROCESS.rlimits, ("Max open files", "1001", "1001"))},
         "Max open files is 1001 and 1001, not 1000"),
        ({"rlimits": PROCESS.rlimits[1:]}, "Max core file size is missing and missing, not 0"),
        ({"mounts": (*MOUNTS, MOUNTS[-2]._replace(settings=frozenset({"size=1m"})))}, "/tmp has size=1m, not 1024k"),
        ({"cgroups": {}}, "cgroup memory is missing, not /joblet/j"),
        ({"cgroups": {"memory": "/"}}, "cgroup memory is /, not /joblet/j"),
        ({"limits": replace(LIMITS, memory_bytes=1 << 40)}, "limit of memory bytes is 1099511627776"),
        ({"limits": replace(LIMITS, max_processes=0)}, "limit of processes is 0, not 20"),
        ({"limits": replace(LIMITS, cpu_percent=0)}, "limit of cpu percent is 0, not 50"),
    ],
)  # fmt: skip
def test_each_thing_that_is_off_is_named_and_alone(changes: dict[str, Any], named: str) -> None:
    texts = found(**changes)
    assert len(texts) == 1, texts
    assert named in texts[0]


def test_every_difference_is_told_at_once() -> None:
    assert len(found(status=with_status(NoNewPrivs="0", Seccomp="0"), uid_map="", cgroups={})) == 4


def test_the_hosts_network_must_really_be_the_hosts() -> None:
    shared = replace(EXPECTED, shared_namespaces=frozenset({"net"}))
    assert found(shared, namespaces={**INSIDE, "net": HOST["net"]}) == []
    assert found(shared) == ["net namespace is not the node's"]


def test_cores_count_only_when_they_were_ordered() -> None:
    assert found(limits=replace(LIMITS, cpu_cores=(0, 1))) == []
    ordered = replace(EXPECTED, limits=replace(EXPECTED.limits, cpu_cores=(1,)))
    assert found(ordered, limits=replace(LIMITS, cpu_cores=(0, 1))) == ["limit of cpu cores is (0, 1), not (1,)"]


def test_a_build_has_the_capabilities_of_a_package_manager_and_no_more() -> None:
    assert dict(capabilities_of(Profile.BUILD))["CapEff"] == BUILD_CAPABILITIES == 0x800000DB
