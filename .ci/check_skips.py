"""Reads pytest's JUnit report; fails when a test was skipped for a reason that .ci/allowed-skips does not name."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ALLOWED = Path(__file__).with_name("allowed-skips")


def main(report: Path) -> int:
    """Prints every skip with its reason; 1 if one of them is not allowed."""
    allowed = [line for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    refused = 0
    skips = [
        (f"{case.get('classname')}.{case.get('name')}", skipped.get("message") or "")
        for case in ET.parse(report).getroot().iter("testcase")
        for skipped in case.iter("skipped")
    ]
    for name, reason in skips:
        known = any(re.fullmatch(pattern, reason, re.DOTALL) for pattern in allowed)
        refused += not known
        print(f"{'skipped' if known else 'SKIPPED WITHOUT A KNOWN REASON'}: {name}: {reason}")
    print(f"{len(skips)} skipped, {refused} of them for no reason in {ALLOWED.name}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
