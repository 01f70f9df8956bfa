"""Keeping the low descriptor numbers free of anything that is ever handed to jobinit.

The nursery gets its descriptors at fixed numbers, one dup2(2) after the other (posix_spawn(3)): a source among those
numbers would be overwritten before its turn.
"""

import os
from contextlib import ExitStack
from typing import Final

from joblet.executor.jobspec import MAX_CGROUP_FDS, Fd

LOWEST_HANDED_OVER: Final = Fd.CGROUP + MAX_CGROUP_FDS


def reserve_low_descriptors(stack: ExitStack) -> int:
    """Fills jobinit's places with /dev/null until `stack` unwinds; called before anything else is opened.

    Returns one more descriptor of /dev/null, for reading and writing, above them.
    """
    while True:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        if null >= LOWEST_HANDED_OVER:
            return null
