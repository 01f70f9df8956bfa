"""The seccomp programs as the kernel gets them, and an interpreter that tells what they answer.

`programs` compiles jobinit's seccomp.c, or a changed copy, and takes the two arrays out of it. `answer` runs one as
seccomp_run_filters does (linux/filter.h, classic BPF on struct seccomp_data). `mutations` is the list of single rules
taken away.
"""

import errno
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from joblet.executor.hardening_for_tests import JOBINIT_SOURCES, Edit, Mutation, mutated
from joblet.executor.jobspec import Profile

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003}
_INSTRUCTION: Final = struct.Struct("<HBBI")
_DATA: Final = struct.Struct("<iIQ6Q")
_DRIVER: Final = """
#include "{source}"
_Noreturn void fail(uint32_t stage, long error, const char *detail) {{ leave(125); }}
int main(void)
{{
    const uint32_t size = sizeof default_program;
    sys(SYS_write, 1, &size, sizeof size);
    sys(SYS_write, 1, default_program, size);
    sys(SYS_write, 1, build_program, sizeof build_program);
    return 0;
}}
"""
_ACTIONS: Final = {0x7FFF0000: "allow", 0x80000000: "kill"}
_NEVER: Final = "WHEN_EQUAL(-1, 0)"  # a rule for no call
_ERRNO: Final = 0x00050000

Program = Sequence[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Call:
    """A system call as a filter sees it."""

    number: int
    arguments: tuple[int, ...] = ()
    architecture: str = "x86_64"

    def data(self) -> bytes:
        arguments = (*self.arguments, *([0] * 6))[:6]
        number = struct.unpack("<i", struct.pack("<I", self.number))[0]
        return _DATA.pack(number, ARCHITECTURES[self.architecture], 0, *arguments)


def programs(directory: Path, mutation: Mutation | None = None) -> dict[Profile, Program]:
    """Both programs, of the sources as they are or with one rule less."""
    text = (JOBINIT_SOURCES / "seccomp.c").read_text() if mutation is None else mutated([mutation])["seccomp.c"]
    name = "whole" if mutation is None else re.sub(r"\W+", "-", mutation.name)
    source, driver, program = (directory / f"{name}{end}" for end in (".c", ".driver.c", ""))
    source.write_text(text)
    driver.write_text(_DRIVER.format(source=source))
    flags = ["-w", "-D_GNU_SOURCE", "-std=gnu11", f"-I{JOBINIT_SOURCES}"]
    subprocess.run(["gcc", *flags, "-o", program, driver], check=True)
    raw = subprocess.run([program], capture_output=True, check=True).stdout
    end = 4 + int.from_bytes(raw[:4], "little")
    return {
        Profile.DEFAULT: list(_INSTRUCTION.iter_unpack(raw[4:end])),
        Profile.BUILD: list(_INSTRUCTION.iter_unpack(raw[end:])),
    }


def answer(program: Program, call: Call) -> str:
    """ "allow", "kill" or the errno's name."""
    data, at, accumulator = call.data(), 0, 0
    while True:
        code, when_true, when_false, value = program[at]
        at += 1
        if code == 0x20:  # LD | W | ABS
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x54:  # ALU | AND | K
            accumulator &= value
        elif code == 0x06:  # RET | K
            return _ACTIONS.get(value) or errno.errorcode[value & ~_ERRNO]
        else:
            at += when_true if _jumps(code, accumulator, value) else when_false


def _jumps(code: int, accumulator: int, value: int) -> bool:
    if code == 0x15:  # JEQ
        return accumulator == value
    if code == 0x35:  # JGE
        return accumulator >= value
    assert code == 0x45, hex(code)  # JSET
    return bool(accumulator & value)


def mutations() -> Iterator[Mutation]:
    """Each rule that refuses something, without it."""
    source = (JOBINIT_SOURCES / "seccomp.c").read_text()
    lists = source[source.index("#define MOUNTS_AND_NAMESPACES") :]
    for name in re.findall(r"DENY\((\w+)\)", lists):
        yield _rule(f"{name} not refused", f"DENY({name})", _NEVER)
    for family in re.findall(r"WHEN_EQUAL\((AF_\w+), SECCOMP_RET_ALLOW\)", source):
        yield _rule(f"{family} not allowed", f"WHEN_EQUAL({family}, SECCOMP_RET_ALLOW)", _NEVER)
    for name, text, instead in (
        ("any architecture", "RETURN(SECCOMP_RET_KILL_PROCESS)", "RETURN(SECCOMP_RET_ALLOW)"),
        ("calls not known", "WHEN_AT_LEAST(LAST_KNOWN + 1, ERROR(ENOSYS))", "WHEN_AT_LEAST(-1, 0)"),
        ("newer calls known", "LAST_KNOWN = 450", "LAST_KNOWN = 470"),
        ("clone makes namespaces", "WHEN_ANY_BIT(NEW_NAMESPACES, ERROR(EPERM))", "WHEN_ANY_BIT(0, 0)"),
        ("clone makes user namespaces", "0x7e020000", "0x6e020000"),
        ("TIOCSTI", "WHEN_EQUAL(IOCTL_TIOCSTI, ERROR(EPERM))", _NEVER),
        ("TIOCLINUX", "WHEN_EQUAL(IOCTL_TIOCLINUX, ERROR(EPERM))", _NEVER),
        ("any socket", "CHECK_FAMILY(socket),", ""),
        ("any pair of sockets", "CHECK_FAMILY(socketpair)", _NEVER),
        ("clone3", "WHEN_EQUAL(SYS_clone3, ERROR(ENOSYS))", _NEVER),
        ("io_setup", "WHEN_EQUAL(SYS_io_setup, ERROR(ENOSYS))", _NEVER),
        ("any personality", "IF_CALL(personality, 7)", "IF_CALL(personality, 7), RETURN(SECCOMP_RET_ALLOW)"),
    ):
        yield _rule(name, text, instead)


def _rule(name: str, text: str, instead: str) -> Mutation:
    return Mutation(name, (Edit("seccomp.c", text, instead),))
