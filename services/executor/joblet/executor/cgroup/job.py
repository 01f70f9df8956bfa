"""What the cgroups of a job have in common on v1 and v2: descriptors, directories, and their end."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from joblet.executor.cgroup import files, leaf
from joblet.executor.cgroup.driver import CgroupError, CgroupUsage
from joblet.executor.cgroup.limits import Limits

Job = TypeVar("Job")

_JOB_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


@dataclass(frozen=True, slots=True)
class JoinFds:
    """What a launch hands to jobinit; an adopted job has none of them."""

    init: tuple[int, ...] = ()
    payload: tuple[int, ...] = ()
    oom_event: int | None = None

    def all(self) -> tuple[int, ...]:
        return (*self.init, *self.payload, *(() if self.oom_event is None else (self.oom_event,)))


class LeafJob(ABC):
    """A JobCgroup (see driver.py) whose payload is one leaf directory in each of its hierarchies."""

    def __init__(
        self,
        job_id: str,
        directories: Sequence[str],
        expected_paths: Mapping[str, str],
        join: JoinFds,
        oom_counter_fd: int,
    ) -> None:
        self.job_id = job_id
        self.expected_paths = expected_paths
        self._directories = tuple(directories)
        self._join = join
        self._oom_counter_fd: int | None = oom_counter_fd

    @property
    def init_fds(self) -> tuple[int, ...]:
        return self._join.init

    @property
    def payload_fds(self) -> tuple[int, ...]:
        return self._join.payload

    @property
    def oom_event_fd(self) -> int | None:
        return self._join.oom_event

    @property
    def oom_counter_fd(self) -> int:
        if self._oom_counter_fd is None:
            raise CgroupError(f"the cgroup of job {self.job_id} is closed")
        return self._oom_counter_fd

    def close_join_fds(self) -> None:
        join, self._join = self._join, JoinFds()
        for fd in join.all():
            os.close(fd)

    def close(self) -> None:
        self.close_join_fds()
        fd, self._oom_counter_fd = self._oom_counter_fd, None
        if fd is not None:
            os.close(fd)

    def remove(self) -> None:
        self.close()
        leaf.remove(self._directories)

    def read_back(self) -> Limits:
        try:
            return self._read_limits()
        except OSError as error:
            raise self._unreadable("limits", error) from error

    def usage(self) -> CgroupUsage:
        try:
            return self._read_usage()
        except OSError as error:
            raise self._unreadable("usage", error) from error

    @abstractmethod
    def kill(self) -> None: ...

    @abstractmethod
    def _read_limits(self) -> Limits: ...

    @abstractmethod
    def _read_usage(self) -> CgroupUsage: ...

    def _unreadable(self, what: str, error: OSError) -> CgroupError:
        return CgroupError(f"{what} of job {self.job_id} cannot be read: {error.strerror} ({error.filename})")


def check_id(job_id: str) -> None:
    """A job id becomes the name of a directory; ValueError when it could be anything else."""
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not a job id: {job_id!r}")


def created(job_id: str, create: Callable[[], Job], prepare: Callable[[], None]) -> Job:
    """What `create` makes, its OSErrors told as CgroupError.

    FileNotFoundError is the parent: another executor that shares it ended and removed it, being empty.
    """
    try:
        try:
            return create()
        except FileNotFoundError:
            prepare()
            return create()
    except FileExistsError as error:
        raise CgroupError(
            f"cgroup setup failed: job {job_id} has a cgroup already", hint="remove what an earlier executor left"
        ) from error
    except OSError as error:
        raise CgroupError.refused(error, f"creating the cgroup of job {job_id}") from error


def not_there(job_id: str) -> CgroupError:
    return CgroupError(f"job {job_id} has no cgroup")


def oom_kills(text: str) -> int:
    """The line "oom_kill N" of v1 memory.oom_control and v2 memory.events."""
    return files.keyed(text)["oom_kill"]
