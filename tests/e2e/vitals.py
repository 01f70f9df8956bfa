"""How the services of a running system are: memory and open files of each, the executor's own books, a channel to ask.

What a service may keep after abuse is bounded by `Slack`; the tests say why theirs is what it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from local_system import WAIT_SECONDS, LocalSystem, wait_for

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Vitals:
    """One service's open files and its proportional set size in bytes (proc(5), smaps_rollup)."""

    fds: int
    pss: int

    def __str__(self) -> str:
        return f"{self.fds} fds, {self.pss / MEGABYTE:.1f} MB"


@dataclass(frozen=True, slots=True)
class Slack:
    """How much more than before each service may hold."""

    fds: int
    pss: int


def channel(system: LocalSystem, *options: tuple[str, int], name: str = "client") -> grpc.Channel:
    """A mutually authenticated channel to the gateway with the certificate `name`-cert.pem; "client" is an admin."""
    return grpc.secure_channel(system.address, credentials(system, name), options=list(options))


def credentials(system: LocalSystem, name: str) -> grpc.ChannelCredentials:
    """Of the files `name`-cert.pem and `name`-key.pem in the system's certificate directory."""
    files = ("ca-cert.pem", f"{name}-key.pem", f"{name}-cert.pem")
    return grpc.ssl_channel_credentials(*((system.certificates / file).read_bytes() for file in files))


def vitals(system: LocalSystem) -> dict[str, Vitals]:
    """Of every service, now."""
    return {name: Vitals(len(os.listdir(f"/proc/{pid}/fd")), _pss(pid)) for name, pid in system.pids().items()}


def wait_until_as_before(
    system: LocalSystem, before: Mapping[str, Vitals], slack: Slack, timeout_seconds: float = WAIT_SECONDS
) -> dict[str, Vitals]:
    """What every service holds, once that is within `slack` of `before`; AssertionError naming both if it never is."""
    now = vitals(system)

    def calm() -> bool:
        nonlocal now
        now = vitals(system)
        return all(
            now[name].fds <= before[name].fds + slack.fds and now[name].pss <= before[name].pss + slack.pss
            for name in before
        )

    try:
        wait_for("services as before", calm, timeout_seconds)
    except AssertionError as error:
        raise AssertionError(f"more than {slack} above what it was: {compare(before, now)}") from error
    return now


def compare(before: Mapping[str, Vitals], now: Mapping[str, Vitals]) -> str:
    """One line per service."""
    return "\n".join(f"{name}: {before[name]} -> {now[name]}" for name in before)


def executor_rows(system: LocalSystem) -> dict[str, int]:
    """How many jobs and undelivered events stand in the executor's journal."""
    path = system.directory / "state/executor/journal.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=WAIT_SECONDS)) as journal:
        return {
            table: int(journal.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ("jobs", "events")
        }


def executor_directories(system: LocalSystem) -> list[str]:
    """Names of the jobs' state directories that the executor keeps."""
    return sorted(os.listdir(system.directory / "state/executor/jobs"))


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no Pss line for process {pid}")
