"""What a job started by jobinit sees of itself and of the machine, and which system calls it is refused."""

import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblet.executor.jobinit_for_tests import JOBINIT, PATH, UID_BASE, Failed, Job, prints
from joblet.executor.jobspec import LaunchFlag, Profile, Stage, Upload
from joblet.executor.procfs import parse_cgroups
from joblet.executor.syscalls import landlock_abi

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

BUILD_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 6, 7, 31))
CAP_KILL = 5
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# Runs one call by number; prints its errno's name, or "ok".
CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return "ok" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")
"""


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    """System call numbers of this architecture, from its headers."""
    headers = ["gcc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "/dev/null"]
    printed = subprocess.run(headers, capture_output=True, text=True, check=True, timeout=120).stdout
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", printed)}


def shell(job: Job, script: str, **changes: object) -> str:
    ended = job.run(job.spec("sh", "-c", script, **changes))
    return ended.output.decode()


def ask(job: Job, code: str, *arguments: str, **changes: object) -> Any:
    """What the Python program prints as JSON when it runs as the job."""
    ended = job.run(job.spec("python3", "-IS", "-c", code, *arguments, **changes))
    assert ended.record.exit_code == 0, ended.output.decode()
    return json.loads(ended.output)


def status_of(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_identity_and_privileges(job: Job) -> None:
    status = status_of(shell(job, "cat /proc/self/status"))
    assert status["Uid"] == status["Gid"] == "\t".join(["1000"] * 4)
    assert status["Groups"] == ""
    assert {status[name] for name in SETS} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (status["SigBlk"], status["SigIgn"], status["SigCgt"]) == ("0" * 16,) * 3
    assert (status["Pid"], status["PPid"]) == ("2", "1") or status["PPid"] == "2"


def test_ids_inside_are_a_range_outside(job: Job) -> None:
    assert shell(job, "cat /proc/self/uid_map /proc/self/gid_map").split() == ["0", str(UID_BASE), "65535"] * 2


TAKES_ALL_INSTANCES = """
import ctypes, time
libc = ctypes.CDLL(None)
while libc.inotify_init1(0) >= 0: pass
print("all", flush=True)
time.sleep(1000)
"""


def test_what_is_counted_for_each_user_is_not_counted_for_root(job: Job) -> None:
    """A job takes all the instances of inotify that it can have; services of the machine still get as many as ever."""
    libc = ctypes.CDLL(None, use_errno=True)

    def instances() -> int:
        taken: list[int] = []
        while (instance := libc.inotify_init1(os.O_CLOEXEC)) >= 0:
            taken.append(instance)
        for instance in taken:
            os.close(instance)
        return len(taken)

    most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    job.start(job.spec("python3", "-ISc", TAKES_ALL_INSTANCES))
    prints(job, b"all\n")
    assert instances() > most // 2


def test_session_and_environment_of_the_process(job: Job) -> None:
    code = """
import json, os, resource
print(json.dumps(dict(
    sid=os.getsid(0) == os.getpid(), group=os.getpgid(0) == os.getpid(), umask=os.umask(0),
    fds=os.listdir("/proc/self/fd"),
    oom=open("/proc/self/oom_score_adj").read().strip(), persona=open("/proc/self/personality").read().strip(),
    host=os.uname().nodename, domain=open("/proc/sys/kernel/domainname").read().strip(), cwd=os.getcwd(),
    core=resource.getrlimit(resource.RLIMIT_CORE), files=resource.getrlimit(resource.RLIMIT_NOFILE),
    locked=resource.getrlimit(resource.RLIMIT_MEMLOCK), size=resource.getrlimit(resource.RLIMIT_FSIZE))))
"""
    seen = ask(job, code, nofile=333, hostname="jbtest-host")
    assert len(seen.pop("fds")) == 4  # 0, 1, 2 and the one that lists them
    assert seen == {
        "sid": True, "group": True, "umask": 0o22, "oom": "500", "persona": "00000000", "host": "jbtest-host",
        "domain": "(none)", "cwd": "/work", "core": [0, 0], "files": [333, 333], "locked": [65536, 65536],
        "size": [-1, -1],
    }  # fmt: skip


def test_the_parked_command_holds_nothing_but_what_it_needs(job: Job) -> None:
    job.spawn(job.spec("true").encode())
    job.init()
    job.parked()
    process = Path(f"/proc/{job.command}")
    assert sorted(int(entry.name) for entry in (process / "fd").iterdir()) == [0, 1, 2, 4, 51]
    status = status_of((process / "status").read_text())
    assert status["Uid"].split() == status["Gid"].split() == [str(UID_BASE + 1000)] * 4
    assert {status[name] for name in SETS} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
    assert job.cgroup.expected_paths.items() <= parse_cgroups((process / "cgroup").read_text()).items()
    assert job.node.user.inode == (process / "ns/user").stat().st_ino
    job.go()
    assert job.end().record.exit_code == 0


def test_init_keeps_one_capability_and_its_descriptors(job: Job) -> None:
    job.start(job.spec("sh", "-c", "read x < /dev/ptmx"))
    assert not select.select([job.pidfd], [], [], 0)[0]
    pid = int(status_of(Path(f"/proc/self/fdinfo/{job.pidfd}").read_text())["Pid"])
    process = Path(f"/proc/{pid}")
    status = status_of((process / "status").read_text())
    kill = f"{1 << CAP_KILL:016x}"
    assert (status["CapPrm"], status["CapEff"], status["CapInh"], status["CapAmb"]) == (kill, kill, "0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Groups"], status["Uid"].split()[0]) == ("1", "", "0")
    # /dev/null, state, log, index, OOM, pipes, signals, record
    wanted = {0, 1, 2, 7, 8, 9, 11, 12, 48, 49, 50, 52, 53}
    assert {int(entry.name) for entry in (process / "fd").iterdir()} == wanted
    limited = set(job.cgroup.expected_paths.values())
    assert not limited & set(parse_cgroups((process / "cgroup").read_text()).values())
    assert (process / "exe").samefile(JOBINIT)
    job.stop()
    job.end()


def test_init_cannot_be_inspected_or_signalled(job: Job) -> None:
    script = """
import json, os, errno
def attempt(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
print(json.dumps([attempt(lambda: os.listdir("/proc/1/fd")), attempt(lambda: open("/proc/1/environ").read()),
    attempt(lambda: open("/proc/1/mem", "rb")), attempt(lambda: os.readlink("/proc/1/root")),
    *(attempt(lambda: os.kill(1, n)) for n in (9, 15, 18, 19))]))
"""
    seen = ask(job, script)
    assert set(seen) <= {"EPERM", "EACCES"}, seen


def test_file_systems(job: Job) -> None:
    table = shell(job, "cat /proc/self/mountinfo")
    mounts = {line.split()[4]: (line.split()[5].split(","), line.split(" - ")[1]) for line in table.splitlines()}
    for path in ("/tmp", "/work", "/dev/shm"):
        assert {"rw", "nosuid", "nodev"} <= set(mounts[path][0])
        assert "nr_inodes=4096" in mounts[path][1]
    assert "size=65536k" in mounts["/work"][1]
    assert {"nosuid", "nodev", "noexec"} <= set(mounts["/proc"][0])
    for path in ("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi"):
        if Path(path).exists():
            assert "ro" in mounts[path][0], path
    assert not any("shared:" in line or "master:" in line for line in table.splitlines())


def test_what_can_be_written(job: Job) -> None:
    script = (
        "stat -c '%n %a %u' /tmp /work /dev/shm\n"
        "for d in / /usr /etc /dev /var /home /run /sys /proc/sys/kernel; do\n"
        "  touch $d/x 2>/dev/null && echo WROTE $d\n"
        "done\n"
        "for d in /tmp /work /dev/shm; do echo x > $d/x && cat $d/x; done\n"
        "echo 0 > /proc/sys/kernel/randomize_va_space && echo SET\n"
        "echo 5 > /proc/sys/user/max_user_namespaces && echo SET\n"
        "cat /proc/sys/user/max_user_namespaces\n"
        "head -c 70000000 /dev/zero > /work/big || echo full\n"
    )
    printed = shell(job, f"exec 2>&1\n{script}")
    assert "WROTE" not in printed
    assert "SET" not in printed
    kept = [line for line in printed.splitlines() if not line.startswith("sh:")]
    wanted = ["/tmp 1777 0", "/work 700 1000", "/dev/shm 1777 0", "x", "x", "x", "0"]
    assert [line.replace(" 65534", " 0") for line in kept[:7]] == wanted
    assert kept[-1] == "full"


def test_masked_files_tell_nothing(job: Job) -> None:
    script = "for f in interrupts kallsyms kcore key-users keys kmsg latency_stats sched_debug timer_list; do\n"
    script += "test -e /proc/$f && timeout 2 head -c 10 /proc/$f; done; ls -A /proc/acpi /proc/scsi /proc/asound; true"
    printed = shell(job, f"exec 2>/dev/null; {script}")
    assert set(printed.split()) <= {"/proc/acpi:", "/proc/scsi:", "/proc/asound:"}


def test_pseudo_terminals_are_the_jobs_own(job: Job) -> None:
    code = """
import json, os
m, s = os.openpty()
os.write(s, b"x")
print(json.dumps([os.ttyname(s), os.read(m, 1).decode()]))
"""
    assert ask(job, code) == ["/dev/pts/0", "x"]


def test_the_output_pipe_can_be_written_by_name_but_not_read_back(job: Job) -> None:
    script = (
        "echo secret; echo by name > /dev/stdout; echo err > /proc/self/fd/2; for f in /dev/stdout /proc/$$/fd/1; do"
    )
    printed = shell(job, f"{script} head -c1 $f 2>&1; done; chmod 666 /dev/stdout 2>&1; cat <&1 2>&1")
    assert printed.startswith("secret\nby name\nerr\n")
    assert printed.count("Permission denied") == 2
    assert "Operation not permitted" in printed
    assert "Bad file descriptor" in printed


def test_cgroup_namespace(job: Job) -> None:
    seen = parse_cgroups(shell(job, "cat /proc/self/cgroup"))
    assert {seen[name] for name in job.cgroup.expected_paths} == {"/"}


def test_a_network_of_its_own_has_lo_up(job: Job) -> None:
    code = """
import json, socket
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
print(json.dumps([name for _, name in socket.if_nameindex()]))
"""
    assert "lo" in ask(job, code, flags=LaunchFlag.NEW_NETWORK)


CONNECT = """
import errno, json, socket, sys
s = socket.socket(socket.AF_UNIX)
print(json.dumps(errno.errorcode.get(s.connect_ex(chr(0) + sys.argv[1]), "ok")))
"""


@pytest.mark.parametrize(("flags", "result"), [(LaunchFlag.LANDLOCK, "EPERM"), (LaunchFlag.NONE, "ok")])
def test_landlock_closes_the_abstract_sockets_of_the_machine(job: Job, flags: LaunchFlag, result: str) -> None:
    assert landlock_abi() >= 6, "this test needs Linux 6.12"
    with socket.socket(socket.AF_UNIX) as server:
        name = f"jbtest-{os.getpid()}"
        server.bind(f"\0{name}")
        server.listen()
        assert ask(job, CONNECT, name, flags=flags) == result


def refused(job: Job, code: str, numbers: dict[str, int], profile: Profile = Profile.DEFAULT) -> Any:
    changes: dict[str, object] = {"profile": profile}
    if profile is Profile.BUILD:
        changes |= {"uid": 0, "gid": 0, "host_uid": UID_BASE, "host_gid": UID_BASE}
    return ask(job, CALLS + "N = json.loads(sys.argv[1])\n" + code, json.dumps(numbers), **changes)


DANGEROUS = (
    "mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "move_mount", "open_tree", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "open_by_handle_at", "quotactl", "quotactl_fd", "fanotify_init", "bpf",
    "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key",
    "keyctl", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "syslog",
    "lookup_dcookie", "kcmp", "pidfd_getfd", "process_madvise", "reboot", "swapon", "swapoff", "acct", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup", "iopl", "ioperm",
    "modify_ldt", "uselib", "ustat", "sysfs", "_sysctl", "create_module", "nfsservctl",
)  # fmt: skip


@pytest.mark.parametrize("profile", list(Profile))
def test_dangerous_calls_are_refused_whatever_their_arguments(
    job: Job, numbers: dict[str, int], profile: Profile
) -> None:
    wanted = {name: numbers[name] for name in DANGEROUS if name in numbers}
    assert len(wanted) > 40
    seen = refused(job, "print(json.dumps({n: call(k) for n, k in N.items()}))", wanted, profile)
    assert seen == dict.fromkeys(wanted, "EPERM")


def test_unknown_calls_do_not_exist(job: Job, numbers: dict[str, int]) -> None:
    code = (
        "print(json.dumps([call(n) for n in (N['clone3'], N['io_setup'], 451, 500, 1000, 0x40000000 + N['getpid'])]))"
    )
    assert refused(job, code, numbers) == ["ENOSYS"] * 6


@pytest.mark.parametrize("profile", list(Profile))
def test_no_namespace_can_be_made(job: Job, numbers: dict[str, int], profile: Profile) -> None:
    code = """
flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x10020000 | 17]
print(json.dumps([call(N["clone"], f, 0, 0, 0, 0) for f in flags]))
"""
    assert refused(job, code, numbers, profile) == ["EPERM"] * 8


@pytest.mark.parametrize("profile", list(Profile))
def test_the_user_namespace_itself_allows_none_below_it(job: Job, profile: Profile) -> None:
    inside = {"uid": 0, "gid": 0, "host_uid": UID_BASE, "host_gid": UID_BASE} if profile is Profile.BUILD else {}
    assert shell(job, "cat /proc/sys/user/max_user_namespaces", profile=profile, **inside) == "0\n"


def test_sockets(job: Job, numbers: dict[str, int]) -> None:
    code = """
families = dict(unix=1, inet=2, inet6=10, netlink=16, ax25=3, packet=17, alg=38, vsock=40, xdp=44)
print(json.dumps({n: call(N["socket"], f, 3 if f == 16 else 1, 0) for n, f in families.items()}))
"""
    seen = refused(job, code, numbers)
    for family in ("unix", "inet", "inet6", "netlink"):
        assert seen.pop(family) == "ok", family
    assert set(seen.values()) == {"EAFNOSUPPORT"}


def test_terminals_cannot_be_typed_into_and_personalities_are_few(job: Job, numbers: dict[str, int]) -> None:
    code = """
import os
m, s = os.openpty()
print(json.dumps(dict(
    typed=[call(N["ioctl"], s, request, 0) for request in (0x5412, (7 << 32) + 0x5412, 0x541c)],
    pair=[call(N["socketpair"], 30, 1, 0, 0)],
    good=[call(N["personality"], p) for p in (0xffffffff, 0x20008, 8, 0)],
    bad=[call(N["personality"], p) for p in (0x40000, 0x400000, 0x100000, 1)])))
"""
    assert refused(job, code, numbers) == {
        "typed": ["EPERM"] * 3, "pair": ["EAFNOSUPPORT"], "good": ["ok"] * 4, "bad": ["EPERM"] * 4,
    }  # fmt: skip


def test_calls_of_another_architecture_kill(job: Job) -> None:
    if os.uname().machine != "x86_64":
        return  # aarch64 code has no instruction for the 32-bit entry
    code = """
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
print("survived")
"""
    ended = job.run(job.spec("python3", "-ISc", code))
    assert ended.output == b""
    # SIGSEGV where the kernel is built without the 32-bit entry.
    assert ended.record.signal in (signal.SIGSYS, signal.SIGSEGV)


def test_ordinary_programs_work(job: Job) -> None:
    script = """
import concurrent.futures, json, multiprocessing, subprocess, tempfile, threading
thread = threading.Thread(target=print, args=("",), kwargs={"end": ""}); thread.start(); thread.join()
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    total = sum(pool.map(abs, range(10)))
text = subprocess.run(["sh", "-c", "mkfifo /tmp/f; echo $((6*7))"], capture_output=True).stdout
with tempfile.TemporaryFile() as file: file.write(b"x")
print(json.dumps([total, int(text)]))
"""
    assert ask(job, script) == [45, 42]


def test_build_profile(job: Job) -> None:
    script = (
        "grep -E 'Cap|NoNew|Seccomp:|Groups' /proc/self/status; id -u; cd /work; touch a; chown 33:44 a\n"
        "stat -c %u:%g a; setpriv --reuid 33 --regid 33 --clear-groups id -u; exec 2>&1; chmod 4755 a\n"
        "mknod dev b 8 0; mount -t tmpfs x /tmp; chroot / true; cat /proc/1/environ; touch /usr/x\n"
        "echo 0 > /proc/sys/kernel/randomize_va_space\n"
    )
    spec = job.spec(
        "sh", "-c", script, profile=Profile.BUILD, uid=0, gid=0, host_uid=UID_BASE, host_gid=UID_BASE,
        env={"PATH": f"{PATH}:/usr/sbin:/sbin"},
    )  # fmt: skip
    printed = job.run(spec).output.decode()
    status = status_of(printed)
    sets = {name: int(status[name], 16) for name in SETS}
    assert sets == {**dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), BUILD_CAPABILITIES), "CapInh": 0, "CapAmb": 0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
    lines = printed.splitlines()
    assert {"0", "33:44", "33"} <= set(lines)
    assert printed.count("Operation not permitted") >= 2, printed  # mknod of a device, chroot
    assert re.search(r"mount: .*(denied|permi)", printed)
    assert re.search(r"/proc/1/environ: Permission denied", printed)
    assert printed.count("Read-only file system") == 2, printed


def test_an_upload_named_through_a_link_of_the_template_cannot_leave_work(job: Job) -> None:
    # /work/fd does not exist, whatever links the root has elsewhere: paths are looked up beneath /work.
    assert shell(job, "ls -A /work; cat dev/fd/x", uploads=[Upload("dev/fd/x", 0o644)]) == "dev\n"


def test_a_descriptor_that_is_no_user_namespace_stops_the_launch(job: Job) -> None:
    with Path("/dev/null").open() as null:
        job.node = replace(job.node, user=replace(job.node.user, fd=null.fileno()))
        with pytest.raises(Failed) as failed:
            job.start(job.spec("sh", "-c", "echo ran"))
    assert failed.value.told.stage is Stage.USERNS
    ended = job.end()
    assert (ended.output, ended.record.exit_code, ended.record.stage) == (b"", 125, Stage.USERNS)
