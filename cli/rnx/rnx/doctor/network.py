"""What later bridge networks will meet: forwarding, and a packet filter that drops what is forwarded.

For information: nothing here is a gap, networks none and host do not need it. Packet filters are asked only when they
are in the kernel already, for asking loads their modules.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from rnx.doctor.findings import Finding, ok

_ASK_SECONDS: Final = 30
_LEGACY_TABLES: Final = Path("/proc/net/ip_tables_names")  # ip_tables; lists what is loaded
_NFT_MODULE: Final = "nf_tables"


def forwarding(ip_forward: str) -> Finding:
    """`ip_forward` is /proc/sys/net/ipv4/ip_forward."""
    if ip_forward.strip() == "1":
        return ok("ip forwarding", "on")
    return ok("ip forwarding", "off; bridge networks need it: `sysctl -w net.ipv4.ip_forward=1`")


def forward_chain(rules: str | None) -> Finding:
    """`rules` is what `iptables -S FORWARD` prints, "" without a packet filter, None when it cannot be asked."""
    check = "forward chain"
    if rules is None:
        return ok(check, "a packet filter is loaded, and there is no iptables to ask for its rules")
    if "-P FORWARD DROP" not in rules:
        return ok(check, "drops nothing by policy" if rules else "no packet filter is loaded")
    by = ", set by Docker" if "DOCKER" in rules else ""
    return ok(check, f"policy DROP{by}; bridge networks need rules of their own there: `iptables -S FORWARD`")


def forward_rules(modules: str) -> str | None:
    """The rules of the chain FORWARD; `modules` is /proc/modules. Changes nothing, loads nothing."""
    legacy = "filter" in _read(_LEGACY_TABLES).split()
    nft = any(line.split()[0] == _NFT_MODULE for line in modules.splitlines() if line)
    if not legacy and not nft:
        return ""
    names = (["iptables-legacy"] if legacy else []) + ["iptables-nft", "iptables"]
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "-S", "FORWARD"], capture_output=True, text=True, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _read(path: Path) -> str:
    """Empty when there is no such table, or when it is root's to read."""
    try:
        return path.read_text()
    except (FileNotFoundError, PermissionError):
        return ""
