"""The hardening of jobinit as a list: for each line that confines a job, the edit that takes it away.

`HARDENING` is data only. `Workshop` applies entries to copies of the sources and compiles them with the flags of
jobinit's Makefile. Who runs such a jobinit: `hardening_root_test` (attestation must refuse it) and
`unprotected_for_tests` (what a protection stops must succeed without it). Never harmful by itself: an entry that would
let a job's init reach beyond the job also takes the kill(-1) and the host name away that would then hit the machine.

The calls that the seccomp programs refuse are listed by `seccomp_for_tests`.
"""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joblet.executor.jobspec import Profile

JOBINIT_SOURCES: Final = Path(__file__).resolve().parents[2] / "jobinit"


@dataclass(frozen=True, slots=True)
class Edit:
    """`text`, which stands exactly once in `file`, becomes `instead`."""

    file: str
    text: str
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One line of hardening, taken away. `profile` and network: of the job that shows it. `version`: of the cgroups."""

    name: str
    edits: tuple[Edit, ...]
    profile: Profile = Profile.DEFAULT
    host_network: bool = False
    version: int = 0


def statement(file: str, beginning: str) -> Edit:
    """Takes away a whole statement."""
    source = (JOBINIT_SOURCES / file).read_text()
    start = source.index(beginning)
    return Edit(file, source[start : source.index(";\n", start) + 1], ";")


def call(file: str, stage: str, arguments: str) -> Edit:
    """Takes away `need(STAGE_..., sys(arguments...), "...");`."""
    return statement(file, f"need({stage}, sys({arguments}")


def without(name: str, file: str, stage: str, arguments: str) -> Mutation:
    return Mutation(name, (call(file, stage, arguments),))


def take(name: str, file: str, text: str, instead: str = "", **more: Any) -> Mutation:
    return Mutation(name, (Edit(file, text, instead),), **more)


def cut(name: str, file: str, beginning: str, **more: Any) -> Mutation:
    return Mutation(name, (statement(file, beginning),), **more)


# Without a pid namespace kill(-1) would be the machine's end, and pid 1 another's.
_NO_KILL_ALL: Final = (
    Edit("supervise.c", "result = sys(SYS_kill, -1, SIGKILL)", "result = sys(SYS_kill, job->command, SIGKILL)"),
    Edit("msg.c", "    sys(SYS_kill, -1, SIGKILL);\n", ""),
    Edit("init.c", "sys(SYS_pidfd_open, 1, 0)", "sys(SYS_pidfd_open, sys(SYS_getpid), 0)"),
)  # fmt: skip
# Without a uts namespace these would be the machine's.
_NO_NAMES: Final = (
    call("init.c", "STAGE_HOSTNAME", "SYS_sethostname"),
    call("init.c", "STAGE_HOSTNAME", "SYS_setdomainname"),
)


def _without_namespace(flag: str, *more: Edit) -> Mutation:
    line = ".flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS,"
    flags = " | ".join(name for name in line[9:-1].split(" | ") if name != flag)
    return Mutation(f"clone without {flag}", (Edit("main.c", line, f".flags = {flags},"), *more))


_MASKED_FILES: Final = (
    "interrupts", "kallsyms", "kcore", "key-users", "keys", "kmsg", "latency_stats", "sched_debug", "timer_list",
)  # fmt: skip
_MASKED_DIRECTORIES: Final = ("acpi", "asound", "scsi")
_READ_ONLY: Final = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def _without_mask(name: str) -> Mutation:
    # "/proc/sys" stands in the file more than once: the entry of the table is the one before this.
    after = ', "/proc/sysrq-trigger"' if name == "sys" else ""
    return take(f"/proc/{name} as it is", "rootfs.c", f'"/proc/{name}"{after}', f'"/proc/jbtest"{after}')


_QUIET: Final = "quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC"
_BOUNDING_SET: Final = "sys(SYS_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0)"
_NESTED: Final = 'write_text(STAGE_USERNS, FD_PROC_SYS, "user/max_user_namespaces"'
_SUPERFLUOUS_FDS: Final = (
    call("command.c", "STAGE_SESSION", "SYS_close_range, FD_CONTROL + 1"),
    call("command.c", "STAGE_SESSION", "SYS_close_range, FD_LAUNCH_WRITE + 1"),
    call("command.c", "STAGE_SESSION", "SYS_close, FD_SPEC"),
)


def _limit(name: str, was: str, becomes: str) -> Mutation:
    return take(f"RLIMIT_{name} not set", "init.c", f"{{RLIMIT_{name}, {was}}}", f"{{RLIMIT_{name}, {becomes}}}")


HARDENING: Final[tuple[Mutation, ...]] = (
    # main.c
    without("signals not blocked", "main.c", "STAGE_SPEC", "SYS_rt_sigprocmask"),
    without("signals ignored as by the executor", "main.c", "STAGE_SPEC", "SYS_rt_sigaction"),
    without("descriptors beyond the protocol stay in outer", "main.c", "STAGE_SPEC", "SYS_close_range"),
    without("no template", "main.c", "STAGE_TEMPLATE", "SYS_setns"),
    _without_namespace("CLONE_NEWPID", *_NO_KILL_ALL),
    _without_namespace("CLONE_NEWNS"),
    _without_namespace("CLONE_NEWIPC"),
    _without_namespace("CLONE_NEWUTS", *_NO_NAMES),
    take("clone without CLONE_NEWNET", "main.c", "args.flags |= CLONE_NEWNET;", ";"),
    # init.c
    without("init dumpable", "init.c", "STAGE_CONTROL", "SYS_prctl, PR_SET_DUMPABLE"),
    without("init in the executor's session", "init.c", "STAGE_CONTROL", "SYS_setsid"),
    without("groups of init", "init.c", "STAGE_CONTROL", "SYS_setgroups"),
    Mutation("host name", (_NO_NAMES[0],)),
    Mutation("domain name", (_NO_NAMES[1],)),
    take("no resource limits", "init.c", "    set_limits(header->nofile);\n", ""),
    _limit("CORE", "0, 0", "none, none"),
    _limit("NOFILE", "nofile, nofile", "nofile / 2, nofile + 1"),
    _limit("MEMLOCK", "64 << 10, 64 << 10", "64 << 10, 128 << 10"),
    _limit("SIGPENDING", "4096, 4096", "4096, 4097"),
    take("output pipe can be read back", "init.c", "FD_PIPE_READ, 0222)", "FD_PIPE_READ, 0666)"),
    take("init keeps the spec", "init.c", "    close_all(FD_SPEC, FD_SPEC);\n"),
    cut("init keeps the template and the user namespace", "init.c", "close_all(FD_TEMPLATE"),
    take("init keeps the uploads", "init.c", "    close_all(FD_UPLOADS, FD_UPLOADS);\n"),
    take("init keeps the cgroup", "init.c", "    close_all(FD_NETNS, FD_PIPE_READ - 1);\n"),
    take("init keeps /proc/sys", "init.c", "    close_all(FD_PROC_SYS, ~0U);\n"),
    without("init may gain privileges", "init.c", "STAGE_PRIVILEGES", "SYS_prctl, PR_SET_NO_NEW_PRIVS"),
    without("init keeps its capabilities", "init.c", "STAGE_PRIVILEGES", "SYS_capset"),
    # rootfs.c
    *map(_without_mask, (*_MASKED_FILES, *_MASKED_DIRECTORIES, *_READ_ONLY)),
    take("masks of files not made", "rootfs.c", 'bound("/dev/null", masked_files[i]);', ";"),
    take("masks of directories not made", "rootfs.c", 'bound("/run", masked_directories[i]);', ";"),
    take("/proc/sys can be written", "rootfs.c", "MS_REMOUNT | MS_RDONLY | quiet", "MS_REMOUNT | quiet"),
    take("/proc with set-uid programs", "rootfs.c", _QUIET, "quiet = MS_NODEV | MS_NOEXEC"),
    take("/proc with devices", "rootfs.c", _QUIET, "quiet = MS_NOSUID | MS_NOEXEC"),
    take("/proc with programs", "rootfs.c", _QUIET, "quiet = MS_NOSUID | MS_NODEV"),
    take("tmpfs with set-uid programs", "rootfs.c", "MS_NOSUID | MS_NODEV, options), wh", "MS_NODEV, options), wh"),
    take("tmpfs with devices", "rootfs.c", "MS_NOSUID | MS_NODEV, options), wh", "MS_NOSUID, options), wh"),
    take("tmpfs without a size", "rootfs.c", "at = number_append(at, end, bytes);",
         'at = text_append(at, end, "64g");'),
    take("tmpfs without a number of files", "rootfs.c", "at = number_append(at, end, inodes);",
         "at = number_append(at, end, inodes * 2);"),
    take("/work open to all", "rootfs.c", ",mode=0700,uid=", ",mode=0777,uid="),
    take("/tmp without the sticky bit", "rootfs.c", '->tmpfs_inodes, ",mode=1777");\n    mount_work',
         '->tmpfs_inodes, ",mode=0777");\n    mount_work'),
    take("terminals with set-uid programs", "rootfs.c", '"devpts", MS_NOSUID | MS_NOEXEC', '"devpts", MS_NOEXEC'),
    take("terminals with programs", "rootfs.c", '"devpts", MS_NOSUID | MS_NOEXEC', '"devpts", MS_NOSUID'),
    take("terminals without a number", "rootfs.c", "max=256,", ""),
    take("terminals anyone may write to", "rootfs.c", ",mode=0620,", ",mode=0622,"),
    take("mounts of others arrive", "rootfs.c", "MS_REC | MS_PRIVATE", "MS_REC | MS_SHARED"),
    take("no /tmp of its own", "rootfs.c",
         'mount_tmpfs("/tmp", header->tmp_bytes, header->tmpfs_inodes, ",mode=1777");', ";"),
    take("no /work of its own", "rootfs.c", "    mount_work(header);\n", ""),
    take("no /dev/pts of its own", "rootfs.c", "    mount_devpts(header);\n", "    (void)mount_devpts;\n"),
    take("no /dev/shm of its own", "rootfs.c",
         'mount_tmpfs("/dev/shm", spec->header.shm_bytes, spec->header.tmpfs_inodes, ",mode=1777");', "(void)spec;"),
    # command.c
    cut("outside of its cgroup", "command.c", "need(STAGE_CGROUP, sys(SYS_write, fd", version=1),
    Mutation("started outside of its cgroup", (Edit("init.c", "args.flags = CLONE_INTO_CGROUP;", ";"),), version=2),
    without("clone without CLONE_NEWCGROUP", "command.c", "STAGE_CGROUP", "SYS_unshare, CLONE_NEWCGROUP"),
    without("session of init", "command.c", "STAGE_SESSION", "SYS_setsid"),
    take("umask of the executor", "command.c", "    sys(SYS_umask, 022);", "    ;"),
    cut("oom score of the executor", "command.c", "write_text(STAGE_SESSION"),
    without("personality of the executor", "command.c", "STAGE_SESSION", "SYS_personality"),
    Mutation("no user namespace", (
        call("command.c", "STAGE_USERNS", "SYS_setns"),
        # else it would be the machine's own setting
        statement("command.c", _NESTED),
    )),
    cut("nested user namespaces", "command.c", _NESTED),
    without("groups of the command", "command.c", "stage", "SYS_setgroups"),
    take("bounding set", "command.c", _BOUNDING_SET, "0"),
    without("ambient set", "command.c", "stage", "SYS_prctl, PR_CAP_AMBIENT"),
    without("gid of init", "command.c", "stage", "SYS_setresgid"),
    without("uid of init", "command.c", "stage", "SYS_setresuid"),
    cut("all capabilities of the user namespace", "command.c", "need(stage, sys(SYS_capset", profile=Profile.BUILD),
    without("privileges to be gained", "command.c", "stage", "SYS_prctl, PR_SET_NO_NEW_PRIVS"),
    take("keyring of the executor", "command.c", "sys(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL)", "0"),
    take("uploads anywhere", "upload.c", "RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,", "0,"),
    Mutation("descriptors of the launch", (_SUPERFLUOUS_FDS[0],)),
    Mutation("descriptors nobody told of", (_SUPERFLUOUS_FDS[1],)),
    Mutation("the spec", (_SUPERFLUOUS_FDS[2],)),
    Mutation("descriptors open while paths are followed", (
        Edit("command.c", "    close_descriptors();\n    enter_directory(spec->workdir);\n",
             "    enter_directory(spec->workdir);\n    close_descriptors();\n"),
    )),
    take("links of /proc to a working directory", "command.c", ".resolve = RESOLVE_NO_MAGICLINKS}", ".resolve = 0}"),
    take("no Landlock", "command.c", "long landlock_error = restrict_by_landlock(header->flags);",
         "(void)restrict_by_landlock; long landlock_error = 0;", host_network=True),
    take("no seccomp", "command.c", "    seccomp_load(header->profile);\n", ""),
    # collect.c
    Mutation("outputs in init's user namespace", (
        call("collect.c", "STAGE_USERNS", "SYS_setns"),
        call("collect.c", "STAGE_USERNS", "SYS_setresuid"),
    )),
    without("outputs with the groups of init", "collect.c", "STAGE_CREDENTIALS", "SYS_setgroups"),
    without("outputs as init's gid", "collect.c", "STAGE_CREDENTIALS", "SYS_setresgid"),
    without("outputs as init's uid", "collect.c", "STAGE_CREDENTIALS", "SYS_setresuid"),
    without("outputs with every capability", "collect.c", "STAGE_CREDENTIALS", "SYS_capset"),
    without("outputs with init's descriptors", "collect.c", "STAGE_SUPERVISE", "SYS_close_range"),
    take("outputs without seccomp", "collect.c", "    seccomp_load(PROFILE_DEFAULT);\n"),
    take("outputs for ever", "collect.c", "        if (left <= 0)\n            break;\n"),
    take("outputs by what links lead to", "collect.c", "&status, AT_SYMLINK_NOFOLLOW)", "&status, 0)"),
    Mutation("outputs through links", (
        Edit("collect.c", "flags | O_RDONLY | O_NOFOLLOW | O_NONBLOCK", "flags | O_RDONLY | O_NONBLOCK"),
        Edit("collect.c", "RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV", "0"),
    )),
    take("outputs of any kind", "collect.c", "else if (S_ISREG(status.st_mode))", "else if (!S_ISLNK(status.st_mode))"),
    take("outputs waited for", "collect.c", "O_NOFOLLOW | O_NONBLOCK | O_NOCTTY", "O_NOFOLLOW | O_NOCTTY"),
    take("outputs with set-uid bits", "collect.c", "status->st_mode & 0777", "status->st_mode & 07777"),
    take("any number of outputs", "collect.c", "kept_files >= limits->output_files", "0"),
    take("outputs of any size", "collect.c",
         "bytes > limits->output_bytes || kept_bytes > limits->output_bytes - bytes", "0"),
    take("outputs at any depth", "collect.c", "depth == MOST_DEPTH", "0"),
    take("outputs with any path", "collect.c", "before + length + 2 > sizeof path", "0"),
    take("any number of outputs left out", "collect.c", "report_size + why_size + path_size + 1 > sizeof report", "0"),
    take("any number of names looked at", "collect.c", "++visited > MOST_VISITED", "0"),
    take("outputs that others may read", "collect.c", "O_NOFOLLOW | O_CLOEXEC, 0600", "O_NOFOLLOW | O_CLOEXEC, 0666"),
)  # fmt: skip


def named(name: str) -> Mutation:
    return next(mutation for mutation in HARDENING if mutation.name == name)


class Workshop:
    """Compiles jobinit without some of its hardening, into `directory`; what is there already is used again."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        line = subprocess.run(
            ["make", "-n", "-B", "-s", f"OUT={directory}", f"{directory}/jobinit"],
            cwd=JOBINIT_SOURCES, capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]  # fmt: skip
        command = shlex.split(line)
        output = command.index("-o")
        self._sources = [word for word in command[output + 2 :] if word.endswith(".c")]
        # Without a line some function or name may have no use left; that is no warning here.
        self._compiler = [*command[:output], "-w", f"-I{JOBINIT_SOURCES}"]
        headers = (path.read_text() for path in sorted(JOBINIT_SOURCES.glob("*.h")))
        self._common = "".join([*self._compiler, *headers])

    def build(self, mutations: Iterable[Mutation]) -> Path:
        """The path of jobinit without these lines."""
        texts = mutated(mutations)
        objects = [self._object(name, texts.get(name)) for name in self._sources]
        program = self._directory / f"jobinit-{_digest(' '.join(made.name for made in objects))}"
        if not program.exists():
            self._make(program, *objects)
        return program

    def _object(self, name: str, text: str | None) -> Path:
        whole = (JOBINIT_SOURCES / name).read_text() if text is None else text
        made = self._directory / f"{name[:-2]}-{_digest(self._common + whole)}.o"
        if not made.exists():
            source = made.with_suffix(".c")
            source.write_text(whole)
            self._make(made, "-c", source)
        return made

    def _make(self, made: Path, *arguments: str | Path) -> None:
        # By rename: another run may be using the directory.
        unfinished = made.with_name(f"{made.name}.{os.getpid()}")
        subprocess.run([*self._compiler, *arguments, "-o", unfinished], check=True)
        unfinished.rename(made)


def mutated(mutations: Iterable[Mutation]) -> Mapping[str, str]:
    """The text of each file that `mutations` change. AssertionError when an edit does not fit the sources any more."""
    texts: dict[str, str] = {}
    edits = dict.fromkeys(edit for mutation in mutations for edit in mutation.edits)
    for edit in edits:
        text = texts.get(edit.file) or (JOBINIT_SOURCES / edit.file).read_text()
        assert text.count(edit.text) == 1, f"{edit.file} has {text.count(edit.text)} times: {edit.text}"
        texts[edit.file] = text.replace(edit.text, edit.instead)
    return texts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
