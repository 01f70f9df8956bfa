"""The life of a process: arguments, configuration, signals and the exit code: 0, 1 on an error, 2 on bad usage."""

import argparse
import asyncio
import ctypes
import gc
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

from joblet.common import config as configuration
from joblet.common import log, memory
from joblet.common.config import Config
from joblet.common.errors import ConfigError, JobletError
from joblet.common.version import VERSION

EXIT_ERROR = 1
# Python's own (700, 10, 10) looks for cycles dozens of times in a second of small requests, and finds next to none.
GARBAGE = (20_000, 20, 100)
_M_ARENA_MAX = -8  # <malloc.h>
_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
EXIT_USAGE = 2

Main = Callable[[asyncio.Event], Awaitable[None]]
Serve = Callable[[Config, asyncio.Event], Awaitable[None]]


def run(main: Main) -> int:
    """Runs `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Returns 0, or leaves by SystemExit(1 or 2).

    A JobletError becomes "Error: <message>" on stderr and, if there is one, "Hint: <hint>". Anything else is a fault of
    ours and keeps its traceback (Python then exits with 1).
    """
    try:
        asyncio.run(_main_with_signals(main))
    except JobletError as error:
        exit_with(error)
    except BaseExceptionGroup as group:
        # A TaskGroup wraps what its first failing task raised; a named error in it is still the reason to show.
        named, rest = group.split(JobletError)
        if named is None or rest is not None:
            raise
        exit_with(_first(named))
    return 0


def service(name: str, serve: Serve, arguments: Sequence[str] | None = None) -> int:
    """The main() of a service: `--config FILE` and `--version`, logging set up, then `serve(config, stop)`."""
    parser = argparse.ArgumentParser(prog=f"joblet-{name}", description=f"The {name} service of Joblet.")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"default: {configuration.DEFAULT_PATH}")
    parser.add_argument("--version", action="version", version=f"joblet-{name} {VERSION}")
    options = parser.parse_args(arguments)
    try:
        config = configuration.load(options.config)
    except ConfigError as error:
        exit_with(error)
    log.setup(name, config.logging)
    _leave_no_core()
    _bound_arenas()
    gc.set_threshold(*GARBAGE)
    return run(lambda stop: _serve(serve, config, stop))


def _leave_no_core() -> None:
    """Services hold secrets of jobs for a moment: no crash may write them to disk, neither to a file (the limit) nor to
    a handler of the system (dumpable: prctl(2), core(5)). What they start decides for itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


async def _serve(serve: Serve, config: Config, stop: asyncio.Event) -> None:
    trimming = asyncio.create_task(memory.keep_small(), name="give memory back")
    try:
        await serve(config, stop)
    finally:
        trimming.cancel()


def _bound_arenas() -> None:
    """One heap for all threads: glibc gives each of grpc's many one of its own, and keeps what a crowd of clients made
    them grow to (mallopt(3)). Other C libraries have no such call and no such heaps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def exit_with(error: JobletError) -> NoReturn:
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"Hint: {error.hint}", file=sys.stderr)
    raise SystemExit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR) from error


async def _main_with_signals(main: Main) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await main(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _first(group: BaseExceptionGroup[JobletError]) -> JobletError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
