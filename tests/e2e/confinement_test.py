"""What a job sees of itself and of the machine, asked from inside."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from limits_test import BURN_SECONDS, idle_seconds
from local_system import LocalSystem

pytestmark = pytest.mark.root

NAMESPACES = ("pid", "mnt", "ipc", "uts", "cgroup", "user")


def inside(joblet: LocalSystem, program: str, *flags: str) -> str:
    """What `sh -c program` prints as a job that must succeed."""
    job_id = joblet.run(*flags, "sh", "-c", program)
    printed = joblet.log(job_id).decode()
    assert joblet.status(job_id)["ExitCode"] == "0", printed
    return printed


def test_identity(joblet: LocalSystem) -> None:
    printed = inside(joblet, "id; cat /proc/self/uid_map /proc/self/gid_map")
    assert re.match(r"uid=1000\(\w+\) gid=1000\(\w+\) groups=1000\(\w+\)\n", printed)
    for line in printed.splitlines()[1:]:
        first, base, count = map(int, line.split())
        assert first == 0
        assert base >= 65536, "the job's range must not overlap the machine's own users"
        assert count == 65535, "all of the range but its last id, which owns the namespace"


def test_privileges(joblet: LocalSystem) -> None:
    printed = inside(joblet, "cat /proc/self/status")
    fields = {head: rest.strip() for head, _, rest in (line.partition(":") for line in printed.splitlines())}
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"], fields["Groups"]) == ("1", "2", "")


@pytest.mark.parametrize("network", ["host", "none"])
def test_namespaces(joblet: LocalSystem, network: str) -> None:
    names = (*NAMESPACES, "net")
    printed = inside(joblet, "for n in " + " ".join(names) + "; do readlink /proc/self/ns/$n; done",
                     f"--network={network}")  # fmt: skip
    for name, seen in zip(names, printed.split(), strict=True):
        ours = str(Path(f"/proc/self/ns/{name}").readlink())
        assert (seen == ours) == (name == "net" and network == "host"), name


def test_only_its_own_processes(joblet: LocalSystem) -> None:
    printed = inside(joblet, "ls /proc | grep -E '^[0-9]+$'; true")
    assert len(printed.split()) <= 5
    assert "Permission denied" in inside(joblet, "ls -l /proc/1/fd 2>&1; true")


def test_no_nested_user_namespace(joblet: LocalSystem) -> None:
    job_id = joblet.run("unshare", "-U", "true")
    assert b"unshare" in joblet.log(job_id)
    assert joblet.status(job_id)["ExitCode"] != "0"


def test_environment_holds_only_the_jobs(joblet: LocalSystem) -> None:
    job_id = joblet.run("--env", "COLOUR=green", "env")
    names = {line.partition("=")[0] for line in joblet.log(job_id).decode().splitlines()}
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "JOB_ID", "COLOUR", "PWD", "HOSTNAME"}
    assert {"PATH", "HOME", "USER", "JOB_ID", "COLOUR"} <= names


def test_cgroup_and_hostname_say_nothing_of_the_machine(joblet: LocalSystem) -> None:
    printed = inside(joblet, "cat /proc/self/cgroup")
    # Hierarchies without limits of ours (a named one such as systemd's) show the job above its own root.
    for line in printed.splitlines():
        if line.split(":")[1] in ("memory", "pids", "cpu", ""):
            assert line.endswith(":/"), line
    assert inside(joblet, "hostname").strip() != os.uname().nodename


def test_marker_files_of_the_machine_are_out_of_sight(joblet: LocalSystem, tmp_path: Path) -> None:
    markers = [tmp_path / "marker", Path("/etc/jbtest-marker"), Path("/opt/jbtest-marker"), Path("/var/jbtest-marker")]
    try:
        for marker in markers:
            marker.write_text("secret")
            marker.chmod(0o644)
        printed = inside(joblet, f"for f in {' '.join(map(str, markers))}; do cat $f && echo SEEN; done 2>&1; true")
        assert "SEEN" not in printed
        assert "secret" not in printed
    finally:
        for marker in markers:
            marker.unlink(missing_ok=True)


def test_system_directories_cannot_be_written(joblet: LocalSystem) -> None:
    printed = inside(
        joblet,
        "for d in / /usr /usr/bin /etc /dev /proc/sys/kernel /var; do touch $d/x && echo WROTE $d; done 2>&1; true",
    )
    assert "WROTE" not in printed
    assert inside(joblet, "for d in /tmp /work /dev/shm; do touch $d/x && echo wrote $d; done") == (
        "wrote /tmp\nwrote /work\nwrote /dev/shm\n"
    )


def test_the_output_pipe_cannot_be_read_back(joblet: LocalSystem) -> None:
    assert inside(joblet, "echo through the device > /dev/stdout") == "through the device\n"
    assert "Permission denied" in inside(joblet, "head -c1 /proc/self/fd/1 2>&1; cat < /dev/stdout 2>&1; true")


def test_no_network_but_loopback(joblet: LocalSystem) -> None:
    printed = inside(joblet, "cat /proc/net/dev", "--network=none")
    assert [line.split(":")[0].strip() for line in printed.splitlines()[2:]] == ["lo"]


def test_pids_are_limited(joblet: LocalSystem) -> None:
    job_id = joblet.run("--max-processes=20", "python3", "-c",
                        "import os, time\nn = 0\n"
                        "try:\n"
                        "  while True:\n"
                        "    n += 1\n"
                        "    if os.fork() == 0: time.sleep(100)\n"
                        "except BlockingIOError: print(n)\n")  # fmt: skip
    assert int(joblet.log(job_id)) <= 20


def test_memory_is_limited_and_the_reason_named(joblet: LocalSystem) -> None:
    job_id = joblet.run("--max-memory=64", "python3", "-c", "b = bytearray(200 << 20)")
    joblet.log(job_id)
    status = joblet.json("job", "status", job_id)
    assert (status["status"], status["exitCode"], status["reason"]) == ("FAILED", 137, "oom")


def test_cpu_is_limited(joblet: LocalSystem) -> None:
    """As in limits_test.py, of a system with the default configuration."""
    idle = idle_seconds()
    job_id = joblet.run("--max-cpu=50", "timeout", str(BURN_SECONDS), "sh", "-c", "while :; do :; done")
    joblet.log(job_id)
    spare = idle_seconds() - idle
    usage = joblet.json("job", "status", job_id)["usage"]
    assert isinstance(usage, dict)
    seconds = float(usage["cpuUserSeconds"]) + float(usage["cpuSystemSeconds"])
    assert seconds <= 0.55 * max(BURN_SECONDS, float(usage["wallSeconds"]))
    assert seconds >= 0.45 * BURN_SECONDS or spare < BURN_SECONDS / 2, f"{seconds} s of CPU, {spare} s to spare"
