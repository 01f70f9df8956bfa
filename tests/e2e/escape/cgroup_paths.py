"""Tries: learns where in the machine's cgroups it is
Must: nothing
See: cgroup_namespaces(7)
"""

from pathlib import Path

from escape.attempt import reached, stopped

paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
path = paths.get("memory", paths.get("", ""))
if path != "/":
    reached(path)
stopped("nothing", path)
