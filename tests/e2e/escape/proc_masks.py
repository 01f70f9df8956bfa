"""Tries: reads what /proc tells of the whole machine: interrupts, timers, symbols, keys
Must: nothing
See: proc(5)
"""

from pathlib import Path

from escape.attempt import reached, stopped

for name in ("interrupts", "timer_list", "kallsyms", "key-users", "keys", "sched_debug", "latency_stats"):
    path = Path("/proc", name)
    try:
        if path.exists() and path.read_bytes():
            reached(path)
    except PermissionError:
        continue
stopped("nothing", "all of them empty")
