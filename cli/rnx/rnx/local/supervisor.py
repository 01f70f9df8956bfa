"""Keeps the four services of a local Joblet running. A process of its own that lives as long as they do, so it imports
only what is small: no dataclasses, no pathlib, no json.

    argv: MODE LOCK DIR RNX... -- NAME COMMAND... -- NAME COMMAND... (MODE foreground or detached, LOCK a descriptor)

 1. It holds the lock of DIR (a descriptor it was given, flock(2)), so a directory has one supervisor at most.
 2. Every service has a session of its own: Ctrl+C in the terminal reaches the supervisor only. Its output goes to
    DIR/logs/NAME.log directly, so killing the supervisor disturbs no service.
 3. A service that ends is started again, at once the first time, then after ever longer pauses.
 4. SIGTERM, SIGINT, SIGHUP: stop the jobs (`rnx local stop-jobs`), then the services, then run `rnx local down`,
    which looks for what is left. SIGUSR1, from `rnx local down`: only stop the services and end.
 5. In the foreground it prints what the services log; `rnx local await-ready` tells when they are ready. If they do
    not become ready, everything is stopped again.
"""

import os
import signal
import sys
import time

from rnx.local import processes

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 10.0
STEADY_SECONDS = 20.0  # a service that ran so long starts again without a pause
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
HELPER_SECONDS = 90.0  # for stopping the jobs, and for looking what is left
PRINT_SECONDS = 0.2  # how often the foreground looks for new lines
ROTATE_SECONDS = 60.0
LOG_BYTES = 16 << 20  # a service's log is cut to one older file of this size
CHUNK_BYTES = 1 << 16

FOREGROUND, DETACHED = "foreground", "detached"


def _signals() -> set[signal.Signals]:
    """Those it waits for. Not a constant: Windows, where rnx has to be imported, does not have them all."""
    return {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}


class Service:
    """One service: its command, its process if it runs, and when to start it again if not."""

    def __init__(self, name: str, command: list[str], directory: str) -> None:
        self.name = name
        self.command = command
        self.log = f"{directory}/logs/{name}.log"
        self.pid_file = f"{directory}/run/{name}.pid"
        self.pid = 0
        self.starts = 0
        self.started = 0.0
        self.due = 0.0
        self.pause = FIRST_PAUSE_SECONDS
        self.printed = _size(self.log)
        self.rest = b""

    def start(self) -> None:
        self.started = time.monotonic()
        try:
            self.pid = _spawn(self.command, self.log, own_session=True)
            self.starts += 1
            identity = processes.identity(self.pid)
            if identity is not None:
                processes.write(self.pid_file, identity, str(self.starts - 1))
        except OSError as error:  # no memory, no process left, disk full: may be over at the next attempt
            say(f"{self.name}: {error}")
            if not self.pid:
                self.ended("could not be started")

    def ended(self, how: str) -> None:
        """Decides when to start it again."""
        self.pid = 0
        lived = time.monotonic() - self.started
        self.pause = FIRST_PAUSE_SECONDS if lived > STEADY_SECONDS else self.pause
        self.due = time.monotonic() + self.pause
        say(f"{self.name} {how}; starting it again in {self.pause:g} s")
        self.pause = min(4 * self.pause, LONGEST_PAUSE_SECONDS)

    def print_new_lines(self) -> None:
        """What it has logged since the last time, whole lines only, its name in front of each."""
        size = _size(self.log)
        if size < self.printed:  # the log was cut
            self.printed = 0
        if size == self.printed:
            return
        with open(self.log, "rb") as file:  # noqa: PTH123 - pathlib is large
            file.seek(self.printed)
            new = file.read(CHUNK_BYTES)
        self.printed += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        prefix = f"{self.name:<8} | ".encode()
        _print(b"".join(prefix + line + b"\n" for line in lines))

    def cut_log(self) -> None:
        """Moves a full log to NAME.log.1. The service appends, so it goes on at the new beginning.

        A line written between the copy and the cut is lost.
        """
        if _size(self.log) < LOG_BYTES:
            return
        with open(self.log, "rb") as source, open(f"{self.log}.1", "wb") as target:  # noqa: PTH123 - pathlib is large
            while chunk := source.read(CHUNK_BYTES):
                target.write(chunk)
        os.truncate(self.log, 0)


class Supervisor:
    def __init__(self, mode: str, lock: int, directory: str, rnx: list[str], services: list[Service]) -> None:
        self.mode = mode
        self.lock = lock
        self.directory = directory
        self.rnx = rnx
        self.services = services
        self.announcer = 0
        self.failed = False  # the announcer gave up: the system did not become ready
        self.next_cut = time.monotonic() + ROTATE_SECONDS

    def run(self) -> int:
        """Until asked to end; the exit code."""
        pid_file = f"{self.directory}/run/supervisor.pid"
        processes.write(pid_file, processes.identity(os.getpid()) or "")
        if self.mode == FOREGROUND:
            self.announcer = _spawn(self._rnx_local("await-ready"))
        number = self._keep_running()
        if number != signal.SIGUSR1:
            say("stopping the jobs ...")
            _wait_for_helper(_spawn(self._rnx_local("stop-jobs")))
        self._stop_services()
        processes.remove(pid_file)
        os.close(self.lock)
        if number != signal.SIGUSR1:
            _wait_for_helper(_spawn(self._rnx_local("down")))
        return 1 if self.failed else 0

    def _rnx_local(self, verb: str) -> list[str]:
        return [*self.rnx, "local", verb, "--dir", self.directory]

    def _keep_running(self) -> int:
        """Starts and restarts the services; the signal that ended this."""
        while not self.failed:
            now = time.monotonic()
            for service in self.services:
                if not service.pid and service.due <= now:
                    service.start()
            self._look_after_logs(now)
            received = signal.sigtimedwait(_signals(), self._patience(now))
            if received is not None and received.si_signo != signal.SIGCHLD:
                return received.si_signo
            self._reap()
        return signal.SIGTERM

    def _patience(self, now: float) -> float:
        due = [service.due for service in self.services if not service.pid]
        printing = [now + PRINT_SECONDS] if self.mode == FOREGROUND else []
        return max(0.0, min([self.next_cut, *due, *printing]) - now)

    def _look_after_logs(self, now: float) -> None:
        if self.mode == FOREGROUND:
            for service in self.services:
                service.print_new_lines()
        if now >= self.next_cut:
            self.next_cut = now + ROTATE_SECONDS
            for service in self.services:
                service.cut_log()

    def _reap(self) -> None:
        """Takes note of every child that ended."""
        while (child := _ended_child()) is not None:
            pid, status = child
            if pid == self.announcer:
                self.failed = status != 0
            for service in self.services:
                if service.pid == pid:
                    service.ended(_how(status))

    def _stop_services(self) -> None:
        """The gateway first, so that nothing new arrives; then the others together."""
        say("stopping the services ...")
        for group in (self.services[:1], self.services[1:]):
            running = [(service, processes.identity(service.pid)) for service in group if service.pid]
            for _, identity in running:
                if identity is not None:
                    processes.send(identity, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for service, identity in running:
                if identity is not None and not processes.wait_gone(identity, deadline - time.monotonic()):
                    say(f"{service.name} did not end within {STOP_SECONDS:g} s; killed")
                    processes.send(identity, signal.SIGKILL)
                    processes.wait_gone(identity, STOP_SECONDS)
                _ended_child(service.pid)
            for service in group:
                processes.remove(service.pid_file)
        if self.mode == FOREGROUND:
            for service in self.services:
                service.print_new_lines()


def say(text: str) -> None:
    _print(f"rnx local: {text}\n".encode())


def _print(data: bytes) -> None:
    """To stdout; a terminal or pipe that went away must not end the supervisor."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - pathlib is large
    except FileNotFoundError:
        return 0


def _ended_child(pid: int = -1) -> tuple[int, int] | None:
    """(pid, wait status) of a child that has ended, None if none has."""
    try:
        child = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return child if child[0] else None


def _wait_for_helper(pid: int) -> None:
    identity = processes.identity(pid)
    if identity is not None and not processes.wait_gone(identity, HELPER_SECONDS):
        say("that takes too long; going on")
        processes.send(identity, signal.SIGKILL)
    os.waitpid(pid, 0)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"


def _spawn(command: list[str], log: str = "", *, own_session: bool = False) -> int:
    """A child with default signals and /dev/null as stdin; its output goes to `log`, or where ours goes."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    ]
    if log:
        actions.append((os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    # A name beside rnx or from PATH was resolved before: the command is a path.
    return os.posix_spawn(
        command[0], command, os.environ, file_actions=actions, setsid=own_session, setsigmask=[], setsigdef=_signals()
    )


def _parse(arguments: list[str]) -> Supervisor:
    mode, lock, directory, *rest = arguments
    groups: list[list[str]] = [[]]
    for word in rest:
        if word == "--":
            groups.append([])
        else:
            groups[-1].append(word)
    rnx, *commands = groups
    services = [Service(name, words, directory) for name, *words in commands]
    return Supervisor(mode, int(lock), directory, rnx, services)


def main() -> int:
    supervisor = _parse(sys.argv[1:])
    os.set_inheritable(supervisor.lock, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
    os.chdir("/")
    return supervisor.run()
