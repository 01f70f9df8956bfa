"""What a check found. A gap has a cause, and a cure that says what to type."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

EXIT_FIT, EXIT_FAILED = 0, 1


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"  # jobs run; something is missing, close to its end, or could not be looked at
    FAILED = "failed"  # jobs do not run, or not as promised


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` is one line; `cause` and `cure` are empty when the status is ok."""

    check: str
    status: Status
    found: str
    cause: str = ""
    cure: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Status.OK, found)


def warning(check: str, found: str, *, cause: str, cure: str) -> Finding:
    return Finding(check, Status.WARNING, found, cause, cure)


def failed(check: str, found: str, *, cause: str, cure: str) -> Finding:
    return Finding(check, Status.FAILED, found, cause, cure)


def count(findings: Iterable[Finding], status: Status) -> int:
    return sum(finding.status is status for finding in findings)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing failed, whatever the warnings."""
    return EXIT_FAILED if count(findings, Status.FAILED) else EXIT_FIT
