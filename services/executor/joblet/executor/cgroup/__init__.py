"""Control groups of jobs: limits, usage and the end of processes, on cgroup v1, hybrid and v2 hosts."""
