import json

import click

from rnx.doctor import findings, report
from rnx.doctor.findings import Finding, Status

GOOD = findings.ok("kernel", "Linux 6.1.0")
CLOSE = findings.warning("clock", "nothing keeps it right", cause="no time service", cure="`timedatectl set-ntp true`")
GAP = findings.failed("ports", "taken\x1b[2J", cause="nginx has 50051", cure="end it")


def plain(finding: Finding) -> list[str]:
    return [click.unstyle(line) for line in report.lines(finding)]


def test_one_line_for_what_is_right() -> None:
    assert plain(GOOD) == ["ok       kernel: Linux 6.1.0"]


def test_cause_and_cure_stand_below() -> None:
    assert plain(CLOSE) == [
        "warning  clock: nothing keeps it right",
        "           cause: no time service",
        "           cure:  `timedatectl set-ntp true`",
    ]
    assert plain(GAP)[0] == "failed   ports: taken\\x1b[2J"


def test_only_the_status_is_coloured() -> None:
    assert [line for line in report.lines(GAP) if "\x1b[" in line] == ["\x1b[31mfailed   \x1b[0mports: taken\\x1b[2J"]


def test_json_has_the_same_keys_for_every_finding() -> None:
    assert json.loads(report.as_json([GOOD, GAP])) == [
        {"check": "kernel", "status": "ok", "found": "Linux 6.1.0", "cause": "", "cure": ""},
        {"check": "ports", "status": "failed", "found": "taken\x1b[2J", "cause": "nginx has 50051", "cure": "end it"},
    ]
    assert report.as_json([]) == "[]"


def test_only_a_failure_makes_the_exit_code() -> None:
    assert findings.exit_code([GOOD, CLOSE]) == 0
    assert findings.exit_code([GOOD, GAP, CLOSE]) == 1


def test_summary() -> None:
    assert report.summary([GOOD, CLOSE]) == "2 checks, nothing failed, 1 warning"
    assert report.summary([GOOD]) == "1 checks, nothing failed"
    assert report.summary([GOOD, GAP, CLOSE]).startswith("1 of 3 checks failed, 1 warning: ")


def test_statuses_are_part_of_the_interface() -> None:
    assert [status.value for status in Status] == ["ok", "warning", "failed"]
