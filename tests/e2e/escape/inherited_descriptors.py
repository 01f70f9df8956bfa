"""Tries: uses what the executor may have left open
Must: nothing
See: open(2), O_CLOEXEC; CVE-2024-21626 (runc, leaked descriptors)
"""

from pathlib import Path

from escape.attempt import reached, stopped

# The descriptor that lists them is gone again, and with it its link.
left = {int(entry.name) for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()} - {0, 1, 2}
if left:
    reached(f"descriptors {sorted(left)}")
stopped("nothing", "0, 1 and 2 only")
