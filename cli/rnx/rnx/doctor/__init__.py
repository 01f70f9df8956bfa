"""`rnx doctor`: is this machine fit to be a Joblet node, and if not, what is missing, why, and what mends it?

findings       what a check says, and the exit code
caller         who asks: user id, capabilities, confinement; turns a refusal into a finding
attempts       short-lived children in which things are really tried
syscalls       the system calls Python has no wrapper for
kernel         namespaces, mounts, seccomp, Landlock and the like, each by trying (`probes`)
cgroups        hierarchies, controllers, groups, swap accounting (`hierarchies` reads where they are)
resources      directories, disk, memory, clock, limits
services       ports, jobinit
network        what later bridge networks will meet
certificates   those of the configuration
report         findings as text and as JSON
examination    which checks there are, in order

A check is a function that returns a `Finding` and takes what it can be given as text or numbers. Checks change nothing
on the machine: what they make lives in a child's own namespaces, or is removed before they return.
"""
