"""No job uses more than it was given, and what it used is told exactly. On cgroup v1 and, in the guests, on v2.

CPU time is counted by the kernel, so a busy machine can only make a job use less of it, and read less of a disk: a
lower bound is asked for only where the machine had that much to spare.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from limited import DISK_FILE_BYTES, MIB, TMP_MB, WORK_MB, Ended, Limited, refused

pytestmark = [pytest.mark.root, pytest.mark.slow]

BURN_SECONDS = 5.0
BURN = """
import os, sys, time
end = time.monotonic() + float(sys.argv[2])
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while time.monotonic() < end:
    pass
"""
# Reads the file again and again past the page cache, SIZE bytes in all; prints the seconds it took.
READ = """
import mmap, os, sys, time
path, size = sys.argv[1], int(sys.argv[2])
buffer = mmap.mmap(-1, 1 << 18)
file = os.open(path, os.O_RDONLY | os.O_DIRECT)
begun, left, end = time.monotonic(), size, os.fstat(file).st_size
while left > 0:
    at = (size - left) % end
    left -= os.preadv(file, [buffer], at)
print(time.monotonic() - begun)
"""
HOG = "b = bytearray(300 << 20)"
CHILD_HOG = "import os, time\nif os.fork() == 0:\n    b = bytearray(300 << 20)\nos.wait()\ntime.sleep(1000)"
MEMORY_MB = 64
CORES = sorted(os.sched_getaffinity(0))


def idle_seconds() -> float:
    """What the machine's cores have been idle since boot (proc_stat(5))."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def burned(limited: Limited, processes: int, **limits: object) -> tuple[Ended, float]:
    """A job that burns CPU time for BURN_SECONDS, and what the machine had to spare meanwhile."""
    idle = idle_seconds()
    ended = limited.python(BURN, str(processes), str(BURN_SECONDS), **limits)
    assert ended.how == ("COMPLETED", 0, "exit"), ended
    return ended, idle_seconds() - idle


def check_cpu(ended: Ended, spare_seconds: float, least: float, most: float) -> None:
    """`most` is for BURN_SECONDS; on a slow machine the interpreter's start comes on top, at the same share."""
    wall_seconds = ended.job.usage.wallSeconds
    print(f"{ended.cpu_seconds:.2f} s of CPU time in {wall_seconds:.2f} s, {spare_seconds:.1f} s to spare")
    assert ended.cpu_seconds <= most * max(1.0, wall_seconds / BURN_SECONDS)
    assert ended.cpu_seconds >= least or spare_seconds < BURN_SECONDS / 2


def test_half_a_core(limited: Limited) -> None:
    check_cpu(*burned(limited, 1, maxCPU=50), 2.3, 2.7)


def test_one_and_a_half_cores(limited: Limited) -> None:
    if len(CORES) < 2:
        assert refused(limited, maxCPU=150) == (
            "INVALID_ARGUMENT", "job creation failed: maxCPU exceeds system limits",
        )  # fmt: skip
        return
    check_cpu(*burned(limited, 3, maxCPU=150), 7.0, 8.0)


def test_pinned_cores(limited: Limited) -> None:
    core = CORES[-1]
    if "cpuset" not in Path("/proc/cgroups").read_text():
        code, text = refused(limited, cpuCores=str(core))
        assert (code, text) == (
            "INTERNAL", "job creation failed: limit cpuCores cannot be applied: this node has no cpuset.cpus",
        )  # fmt: skip
        return
    seen = limited.python("import os; print(*os.sched_getaffinity(0))", cpuCores=str(core))
    assert seen.output.split() == [str(core)]
    ended, _ = burned(limited, 3, cpuCores=str(core), maxCPU=100 * len(CORES))
    assert ended.cpu_seconds <= 1.1 * ended.job.usage.wallSeconds


@pytest.mark.parametrize(
    ("program", "reason", "message"),
    [
        (HOG, "oom", "out of memory: the limit is 64 MB"),
        (CHILD_HOG, "oom-child", "out of memory in a child of the command: the limit is 64 MB"),
    ],
    ids=["the command", "a child"],
)
def test_memory(limited: Limited, program: str, reason: str, message: str) -> None:
    ended = limited.python(program, maxMemory=MEMORY_MB)
    assert ended.how == ("FAILED", 137, reason)
    assert (ended.job.signal, ended.job.message) == (9, message)
    assert ended.job.usage.oomKills >= 1
    assert 0.9 * MEMORY_MB * MIB <= ended.job.usage.peakMemoryBytes <= MEMORY_MB * MIB


def test_files_in_memory_count(limited: Limited) -> None:
    """/dev/shm has no size of its own but the job's memory."""
    ended = limited.run("dd", "if=/dev/zero", "of=/dev/shm/x", "bs=64k", maxMemory=MEMORY_MB)
    assert ended.how in (("FAILED", 137, "oom"), ("FAILED", 1, "exit"))  # the size may be reached before the limit
    assert ended.job.usage.peakMemoryBytes <= MEMORY_MB * MIB


@pytest.mark.parametrize(("directory", "size_mb"), [("/tmp", TMP_MB), ("/work", WORK_MB)])
def test_sizes_of_directories(limited: Limited, directory: str, size_mb: int) -> None:
    ended = limited.run("dd", "if=/dev/zero", f"of={directory}/x", "bs=64k")
    assert ended.how == ("FAILED", 1, "exit")
    assert "No space left on device" in ended.output
    (written,) = re.findall(r"^(\d+) bytes", ended.output, re.MULTILINE)
    assert size_mb * MIB - 65536 <= int(written) <= size_mb * MIB


def test_inodes_of_directories(limited: Limited) -> None:
    program = (
        "import os\nn = 0\ntry:\n    while True:\n        os.mkdir(f'/tmp/{n}')\n        n += 1\n"
        "except OSError as e: print(n, e.errno)"
    )
    count, number = map(int, limited.python(program, maxMemory=1024).output.split())
    assert number == 28  # ENOSPC
    assert count < 1 << 18


def test_processes(limited: Limited) -> None:
    program = (
        "import os, time\nn = 1\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(1000)\n        n += 1\n"
        "except BlockingIOError: print(n)"
    )
    assert limited.python(program, maxProcesses=20).output == "20\n"


def test_open_files(limited: Limited) -> None:
    program = (
        "import os, resource\nn = 0\ntry:\n    while True:\n        os.open('/', 0)\n        n += 1\n"
        "except OSError as e: print(n, e.errno, resource.getrlimit(resource.RLIMIT_NOFILE)[1])"
    )
    count, number, most = map(int, limited.python(program).output.split())
    assert number == 24  # EMFILE
    assert most - 10 < count < most <= 1 << 16


def test_reading_a_disk(limited: Limited) -> None:
    rate = 4 * MIB
    idle = idle_seconds()
    ended = limited.python(READ, str(limited.disk), str(4 * rate), maxIOBPS=rate)
    assert ended.how == ("COMPLETED", 0, "exit"), ended.output
    seconds = float(ended.output)
    print(f"{4 * rate / seconds / MIB:.2f} MiB/s of {rate / MIB:.2f}")
    assert 4 * rate / seconds <= 1.15 * rate
    assert 4 * rate / seconds >= 0.85 * rate or idle_seconds() - idle < seconds / 2
    assert ended.job.usage.ioReadBytes >= 4 * rate


def test_status_says_where_the_limit_of_io_cannot_hold(limited: Limited) -> None:
    """cgroup v1 counts delayed writes for nobody."""
    version = 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    told = ["maxIOBPS: writes that the kernel delays are not limited (the node has cgroup v1)"]
    assert list(limited.run("true", maxIOBPS=MIB).job.notIsolated) == (told if version == 1 else [])
    assert list(limited.run("true").job.notIsolated) == []


def test_usage_of_uncached_reads(limited: Limited) -> None:
    ended = limited.python(READ, str(limited.disk), str(20 * MIB))
    assert ended.how == ("COMPLETED", 0, "exit"), ended.output
    assert 20 * MIB <= ended.job.usage.ioReadBytes <= 20 * MIB + DISK_FILE_BYTES  # python itself may come from a disk


def test_usage_of_fifty_milliseconds(limited: Limited) -> None:
    program = "import time\nend = time.process_time() + 0.05\nwhile time.process_time() < end: pass\ntime.sleep(0.001)"
    ended = limited.python(program)
    usage = ended.job.usage
    assert 0.04 <= ended.cpu_seconds <= 1  # a tick is 10 ms at most; the interpreter's start is part of it
    assert usage.wallSeconds >= 0.05
    assert usage.peakMemoryBytes > MIB
    assert usage.voluntaryContextSwitches + usage.involuntaryContextSwitches > 0


def test_usage_of_killed_children(limited: Limited) -> None:
    """What nobody waited for counts as well."""
    program = """
import os, time
seen, done = os.pipe()
if os.fork() == 0:
    while time.process_time() < 0.3: pass
    os.write(done, b"x")
    time.sleep(1000)
os.read(seen, 1)
"""
    assert limited.python(program).cpu_seconds >= 0.28
