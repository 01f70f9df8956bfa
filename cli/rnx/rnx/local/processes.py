"""Processes that are still the ones they were: a pid together with its start time, written "PID START".

The start time is field 22 of /proc/PID/stat, in clock ticks since boot (proc(5)); a pid used again has another one.
This module is imported by the supervisor and therefore imports next to nothing.
"""

import os
import select
import signal


def identity(pid: int) -> str | None:
    """ "PID START" of a running process, None if there is none (a zombie has ended)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib is large
            # The command's name, in parentheses, may hold anything: what follows the last one is clean.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def is_alive(process: str) -> bool:
    """Whether the process of an identity is still running."""
    return identity(int(process.split()[0])) == process


def send(process: str, number: int) -> None:
    """A signal to that very process; nothing happens if it has ended."""
    pid = int(process.split()[0])
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor stands for whoever has the pid now; only now is it certain whether that is the one meant.
        if is_alive(process):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def wait_gone(process: str, seconds: float) -> bool:
    """Waits until the process has ended, whoever its parent is; False if it runs still after `seconds`."""
    try:
        descriptor = os.pidfd_open(int(process.split()[0]))
    except ProcessLookupError:
        return True
    try:
        if not is_alive(process):
            return True
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        return bool(watch.poll(max(0, int(seconds * 1000))))
    finally:
        os.close(descriptor)


def end(process: str, seconds: float) -> bool:
    """SIGTERM, and SIGKILL after `seconds`; whether SIGKILL was needed."""
    send(process, signal.SIGTERM)
    if wait_gone(process, seconds):
        return False
    send(process, signal.SIGKILL)
    wait_gone(process, seconds)
    return True


def write(path: str, process: str, *words: str) -> None:
    """A pid file: the identity and further words on one line; appears whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is large
        file.write(" ".join([process, *words]) + "\n")
    os.replace(f"{path}.new", path)  # noqa: PTH105 - pathlib is large


def read(path: str) -> tuple[str, list[str]] | None:
    """Identity and further words of a pid file; None if there is none or it is no pid file (a full disk leaves one)."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is large
            words = file.read().split()
    except FileNotFoundError:
        return None
    if len(words) < 2 or not words[0].isdigit():
        return None
    return " ".join(words[:2]), words[2:]


def remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - pathlib is large
    except FileNotFoundError:
        return
