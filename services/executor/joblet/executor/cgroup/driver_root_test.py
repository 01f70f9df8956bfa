"""Limits, usage and the end of processes on the real kernel, by whichever driver this machine needs (v1 or v2)."""

import fcntl
import os
import select
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from joblet.executor.cgroup import files, leaf
from joblet.executor.cgroup.detect import detect
from joblet.executor.cgroup.devices import block_devices_of
from joblet.executor.cgroup.driver import CgroupDriver, CgroupError, JobCgroup, LimitNotApplied
from joblet.executor.cgroup.driver_for_tests import (
    DEADLINE_SECONDS,
    PYTHON,
    await_line,
    directories_named,
    idle_seconds,
    output,
    start,
)
from joblet.executor.cgroup.hierarchies import membership
from joblet.executor.cgroup.limits import Limits

pytestmark = pytest.mark.root

MIB = 1 << 20
NOBODY = 65534


def cpu_seconds(job: JobCgroup) -> float:
    usage = job.usage()
    return usage.cpu_user_seconds + usage.cpu_system_seconds


def test_cpu_time_is_limited(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("cpu", Limits(cpu_percent=50), ())
    burn = "import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    started = time.monotonic()
    output(job, processes, *PYTHON, burn)
    assert cpu_seconds(job) / (time.monotonic() - started) <= 0.6
    job.remove()


def test_memory_is_limited(driver: CgroupDriver, processes: ExitStack) -> None:
    limit_bytes = 48 * MIB
    job = driver.create("memory", Limits(memory_bytes=limit_bytes), ())
    assert job.usage().oom_kills == 0
    bystander = start(job, processes, *PYTHON, "input()")
    hog = start(job, processes, *PYTHON, f"bytearray({4 * limit_bytes})[::4096]")
    assert hog.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    usage = job.usage()
    assert usage.oom_kills >= 1
    assert usage.peak_memory_bytes is not None
    assert 0.9 * limit_bytes <= usage.peak_memory_bytes <= limit_bytes
    assert b"oom_kill %d\n" % usage.oom_kills in os.pread(job.oom_counter_fd, 4096, 0)
    if driver.version == 1:
        assert job.oom_event_fd is not None
        assert select.select([job.oom_event_fd], [], [], 0)[0]
        assert bystander.poll() is None  # v1 kills one process; the rest is init's task
        job.kill()
    assert bystander.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    job.remove()


def test_the_oom_event_is_silent_without_oom(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("quiet", Limits(memory_bytes=64 * MIB), ())
    output(job, processes, *PYTHON, "pass")
    assert job.usage().oom_kills == 0
    if job.oom_event_fd is not None:
        assert select.select([job.oom_event_fd], [], [], 0)[0] == []
    job.remove()


def test_processes_are_limited(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("pids", Limits(max_processes=10), ())
    bomb = """if True:
        import os, signal
        children = []
        try:
            while len(children) < 50:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except BlockingIOError:
            pass
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(len(children))
    """
    assert int(output(job, processes, *PYTHON, bomb)) == 9
    job.remove()


def test_io_is_limited(driver: CgroupDriver, processes: ExitStack, tmp_path: Path) -> None:
    rate, size = 2 * MIB, 6 * MIB
    devices = block_devices_of([tmp_path])
    job = driver.create("io", Limits(io_bytes_per_second=rate), devices)
    data = tmp_path / "data"
    for direction in ([f"of={data}", "if=/dev/zero", "oflag=direct"], [f"if={data}", "of=/dev/null", "iflag=direct"]):
        blocks = ("bs=256K", f"count={size // (256 << 10)}")
        idle = idle_seconds()
        report = output(job, processes, "sh", "-c", 'LC_ALL=C exec dd "$@" 2>&1', "sh", *direction, *blocks)
        seconds = float(report.split(" copied, ")[1].split(" s,")[0])
        assert size / seconds / rate <= 1.15
        assert size / seconds / rate >= 0.85 or idle_seconds() - idle < seconds / 2
    usage = job.usage()
    assert size <= usage.io_write_bytes <= 1.2 * size
    assert size <= usage.io_read_bytes <= 2 * size  # dd itself may come from the disk
    job.remove()


BURN = """if True:
    import os, sys, time
    end = time.monotonic() + float(sys.argv[2])
    for _ in range(int(sys.argv[1]) - 1):
        if os.fork() == 0:
            break
    while time.monotonic() < end: pass
"""


def test_delayed_writes_are_the_jobs_on_v2_only(driver: CgroupDriver, processes: ExitStack, tmp_path: Path) -> None:
    rate, size = 2 * MIB, 4 * MIB
    data = tmp_path / "data"
    job = driver.create(
        "delayed", Limits(memory_bytes=64 * MIB, io_bytes_per_second=rate), block_devices_of([tmp_path])
    )
    output(job, processes, "dd", "if=/dev/zero", f"of={data}", "bs=256K", f"count={size // (256 << 10)}", "status=none")
    started = time.monotonic()
    subprocess.run(["sync", data], check=True, timeout=DEADLINE_SECONDS)
    seconds, written = time.monotonic() - started, job.usage().io_write_bytes
    if driver.version == 1:
        assert written < size
    else:
        assert seconds >= 0.7 * size / rate
        assert written >= size
    job.remove()


def test_more_than_one_core_is_limited(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("cores-150", Limits(cpu_percent=150), ())
    started = time.monotonic()
    output(job, processes, *PYTHON, BURN, "3", "2")
    assert cpu_seconds(job) / (time.monotonic() - started) <= 1.6
    job.remove()


def test_counting_limits_nothing(driver: CgroupDriver, tmp_path: Path, parent: str) -> None:
    driver.count_io(block_devices_of([tmp_path]))
    for directory in directories_named(parent):
        for limits in Path(directory).glob("blkio.throttle.*_bps_device"):
            assert limits.read_text() == ""


def test_a_disk_that_cannot_be_counted_is_told(driver: CgroupDriver) -> None:
    if driver.version == 1:
        with pytest.raises(CgroupError, match="cgroup setup failed: no such device"):
            driver.count_io([(4095, 77)])


def test_cores_are_limited_or_refused(driver: CgroupDriver, processes: ExitStack) -> None:
    core = max(os.sched_getaffinity(0))
    if "cpuset" not in files.read("/proc/cgroups"):
        with pytest.raises(LimitNotApplied, match=r"limit cpuCores cannot be applied: this node has no cpuset\.cpus"):
            driver.create("cores", Limits(cpu_cores=(core,)), ())
        return
    job = driver.create("cores", Limits(cpu_cores=(core,)), ())
    assert output(job, processes, *PYTHON, "import os; print(*os.sched_getaffinity(0))") == f"{core}\n"
    started, before = time.monotonic(), cpu_seconds(job)
    output(job, processes, *PYTHON, BURN, "3", "2")
    assert (cpu_seconds(job) - before) / (time.monotonic() - started) <= 1.1
    job.remove()


def test_what_is_written_is_read_back(driver: CgroupDriver, tmp_path: Path) -> None:
    limits = Limits(150, None, 100 * MIB + 5, 7 * MIB, 33)
    job = driver.create("all", limits, block_devices_of([tmp_path]))
    assert job.read_back() == Limits(150, None, 100 * MIB, 7 * MIB, 33)
    job.remove()
    free = driver.create("none", Limits(), ())
    assert free.read_back() == Limits()
    free.remove()


def test_the_payload_is_where_it_is_expected(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("where", Limits(memory_bytes=64 * MIB, max_processes=8), ())
    found = membership(output(job, processes, "cat", "/proc/self/cgroup"))
    assert {name: found[name] for name in job.expected_paths} == job.expected_paths
    own = membership(files.read("/proc/self/cgroup"))
    assert all(path != own[name] for name, path in job.expected_paths.items())
    job.remove()


@pytest.mark.parametrize(
    ("limits", "devices", "field"),
    [
        (Limits(100, (4096,), 64 * MIB, 0, 64), (), "cpu_cores"),
        (Limits(100, None, 64 * MIB, MIB, 64), (), "io_bytes_per_second"),
        (Limits(100, None, 64 * MIB, MIB, 64), ((4095, 77),), "io_bytes_per_second"),
        (Limits(100, None, 64 * MIB, 0, 1 << 40), (), "max_processes"),
    ],
)
def test_a_refused_limit_leaves_nothing(
    driver: CgroupDriver, parent: str, limits: Limits, devices: tuple[tuple[int, int], ...], field: str
) -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises(LimitNotApplied) as caught:
        driver.create("refused", limits, devices)
    assert caught.value.field == field
    assert driver.existing() == []
    assert directories_named("refused") == []
    assert set(os.listdir("/proc/self/fd")) <= descriptors


def test_a_second_cgroup_of_the_same_job_is_refused(driver: CgroupDriver) -> None:
    first = driver.create("twice", Limits(memory_bytes=64 * MIB), ())
    with pytest.raises(CgroupError, match="job twice has a cgroup already"):
        driver.create("twice", Limits(memory_bytes=32 * MIB), ())
    assert first.read_back().memory_bytes == 64 * MIB
    first.remove()


@pytest.mark.parametrize("job_id", ["", "..", "a/b", ".hidden", "a\n"])
def test_only_names_of_directories_are_job_ids(driver: CgroupDriver, job_id: str) -> None:
    for action in (lambda: driver.create(job_id, Limits(), ()), lambda: driver.discard(job_id)):
        with pytest.raises(ValueError, match="not a job id"):
            action()


def test_without_privileges_the_error_is_the_kernels(driver: CgroupDriver, parent: str) -> None:
    for name in (parent, f"{parent}-other"):
        assert refusal_of_nobody(name) == "cgroup setup failed: permission denied"


def refusal_of_nobody(parent: str) -> str:
    """What prepare() says to a process of another user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            detect(parent).prepare()
        except CgroupError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def test_a_new_driver_adopts_what_runs(driver: CgroupDriver, parent: str, processes: ExitStack) -> None:
    limits = Limits(cpu_percent=100, memory_bytes=64 * MIB, max_processes=8)
    job = driver.create("adopted", limits, ())
    process = start(job, processes, *PYTHON, "print('here', flush=True); input()")
    await_line(process, "here")
    job.close()

    second = detect(parent)
    second.prepare()
    assert second.existing() == ["adopted"]
    adopted = second.adopt("adopted")
    assert (adopted.init_fds, adopted.payload_fds, adopted.oom_event_fd) == ((), (), None)
    assert adopted.read_back() == limits
    assert b"oom_kill 0\n" in os.pread(adopted.oom_counter_fd, 4096, 0)
    assert cpu_seconds(adopted) > 0
    adopted.kill()
    assert process.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    adopted.remove()
    assert second.existing() == []
    with pytest.raises(CgroupError, match="job adopted has no cgroup"):
        second.adopt("adopted")


def test_remove_waits_for_the_dying_and_names_the_living(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("busy", Limits(), ())
    process = start(job, processes, *PYTHON, "print('here', flush=True); input()")
    await_line(process, "here")
    with pytest.raises(CgroupError, match=f"cannot be removed: processes {process.pid} are in it"):
        job.remove()
    process.kill()  # not waited for: remove() meets it while it dies
    job.remove()
    assert driver.existing() == []
    job.remove()


def test_usage_of_a_short_job_is_exact(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("short", Limits(cpu_percent=100, memory_bytes=64 * MIB), ())
    burn = """if True:
        import os, time
        joined = time.process_time()
        while time.process_time() < joined + 0.05:
            pass
        print(joined, time.process_time(), flush=True)
        os._exit(0)
    """
    joined, ended = map(float, output(job, processes, *PYTHON, burn).split())
    usage = job.usage()
    # Between the join and `joined` lies the start of the interpreter, after `ended` its end; a tick is 10 ms at most.
    assert ended - joined - 0.01 <= usage.cpu_user_seconds + usage.cpu_system_seconds <= ended + 0.02
    assert usage.cpu_user_seconds > 0
    assert usage.peak_memory_bytes is not None
    assert MIB <= usage.peak_memory_bytes <= 64 * MIB
    job.remove()


def test_kill_ends_a_fork_bomb(driver: CgroupDriver, processes: ExitStack) -> None:
    job = driver.create("bomb", Limits(cpu_percent=50, max_processes=40), ())
    bomb = """if True:
        import os
        print('here', flush=True)
        while True:
            try:
                os.fork()
                os.setsid()
            except OSError:
                pass
    """
    process = start(job, processes, *PYTHON, bomb)
    await_line(process, "here")
    job.kill()
    assert process.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    job.remove()


def test_half_a_job_is_listed_and_discarded(driver: CgroupDriver, parent: str, processes: ExitStack) -> None:
    job = driver.create("half", Limits(), ())
    process = start(job, processes, *PYTHON, "input()")
    driver.discard("half")
    assert process.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL
    Path(directories_named(parent)[0], "half").mkdir()
    assert driver.existing() == ["half"]
    driver.discard("half")
    driver.discard("half")
    assert driver.existing() == []
    job.close()


def test_a_parent_that_went_away_is_made_again(driver: CgroupDriver, parent: str) -> None:
    other = detect(parent)
    other.prepare()
    other.close()
    assert directories_named(parent) == []
    driver.create("again", Limits(memory_bytes=64 * MIB), ()).remove()


def test_close_leaves_the_jobs_of_others(driver: CgroupDriver, parent: str) -> None:
    job = driver.create("other", Limits(), ())
    detect(parent).close()
    assert driver.existing() == ["other"]
    job.remove()


def test_descriptors_are_not_inherited_and_closed_once(driver: CgroupDriver) -> None:
    before = set(os.listdir("/proc/self/fd"))
    job = driver.create("fds", Limits(memory_bytes=64 * MIB), ())
    for fd in (*job.init_fds, *job.payload_fds, job.oom_counter_fd):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    job.close_join_fds()
    assert (job.init_fds, job.payload_fds, job.oom_event_fd) == ((), (), None)
    job.close()
    job.close()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert job.usage().oom_kills == 0
    with pytest.raises(CgroupError, match="is closed"):
        _ = job.oom_counter_fd
    job.remove()
    assert leaf.children("/nowhere") == []
