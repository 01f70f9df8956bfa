"""Findings as lines for people and as JSON for programs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import click

from rnx.doctor.findings import Finding, Status, count

_COLOURS: Final = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red"}
_STATUS_WIDTH: Final = max(map(len, Status)) + 2


def lines(finding: Finding) -> Iterator[str]:
    """One line; for a gap a second and a third. Coloured: click.echo takes colours away where there is no terminal."""
    from rnx.output import printable

    status = click.style(finding.status.ljust(_STATUS_WIDTH), fg=_COLOURS[finding.status])
    yield f"{status}{finding.check}: {printable(finding.found)}"
    for name, text in (("cause", finding.cause), ("cure", finding.cure)):
        if text:
            yield f"{' ' * _STATUS_WIDTH}  {name + ':':<7}{printable(text)}"


def summary(findings: Sequence[Finding]) -> str:
    gaps = count(findings, Status.FAILED)
    warnings = count(findings, Status.WARNING)
    noted = f", {warnings} warning{'s' if warnings != 1 else ''}" if warnings else ""
    if gaps:
        return f"{gaps} of {len(findings)} checks failed{noted}: this machine is not ready to run jobs"
    return f"{len(findings)} checks, nothing failed{noted}"


def as_json(findings: Iterable[Finding]) -> str:
    """A list of objects with check, status, found, cause and cure, in the order of the checks."""
    return json.dumps(
        [
            {
                "check": finding.check,
                "status": finding.status.value,
                "found": finding.found,
                "cause": finding.cause,
                "cure": finding.cure,
            }
            for finding in findings
        ],
        indent=2,
        ensure_ascii=False,
    )
