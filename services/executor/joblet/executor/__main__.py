"""`joblet-executor --config FILE`, also `python -m joblet.executor`.

Here is what must happen before grpc is imported and threads exist: the descriptors that jobinit's places are kept free
with, and the forks that make namespaces.
"""

import asyncio
import fcntl
import os
import resource
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from joblet.common import lifecycle
from joblet.common.config import Config
from joblet.common.errors import JobletError, StartError
from joblet.executor import machine
from joblet.executor.descriptors import reserve_low_descriptors
from joblet.executor.journal import Journal
from joblet.executor.machine import Machine


def main() -> int:
    # A job needs about fifteen descriptors while it starts and five while it runs; the usual soft limit is 1024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return lifecycle.service("executor", serve)


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Prepares the machine, then serves until `stop` is set."""
    with ExitStack() as stack:
        null = reserve_low_descriptors(stack)
        state_dir = config.executor.state_dir
        _lock(state_dir, stack)
        prepared_machine = _prepare(config, stack)
        journal = stack.enter_context(closing(Journal(state_dir / "journal.db")))
        # After the forks: it imports grpc, which starts threads.
        from joblet.executor import server

        await server.run(config, server.Prepared(prepared_machine, journal, null), stop)


def _prepare(config: Config, stack: ExitStack) -> Machine | JobletError:
    try:
        return machine.prepare(config, stack)
    except StartError:
        raise
    except JobletError as reason:
        return reason


def _lock(state_dir: Path, stack: ExitStack) -> None:
    """Makes the state directory this process's own."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot use the state directory {state_dir}: {error.strerror}") from error
    stack.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"another executor uses the state directory {state_dir}") from None


if __name__ == "__main__":
    sys.exit(main())
