"""Jobs that depend on each other, run one after the other or by the workers of a cluster.

A job is a call of a function that can be made again: it writes its results to files and goes on where it was stopped,
or replaces them. A job whose process has died is tried again, anywhere.
"""

import abc
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r2l_jax.runtime.errors import InputError, in_words
from r2l_jax.runtime.locks import FolderInUseError
from r2l_jax.runtime.stop import Interrupted

# How often a job is begun before it counts as failed.
TRIES = 3


@dataclasses.dataclass(frozen=True)
class Job:
    """A call that a process can make by itself.

    Attributes:
        name: its name, which no other job has.
        work: the call. A cluster pickles it, and what it returns: a function of a module, or `functools.partial` of
            one.
        after: the names of jobs before it in the list, whose results it needs.
    """

    name: str
    work: Callable[[], Any]
    after: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How a job has ended.

    Attributes:
        name: the job's name.
        seconds: how long it took, without failed tries.
        error: why it failed, in one line; None for a job that succeeded.
        result: what its call returned.
        printed: what it printed in another process, unless that is in a file.
    """

    name: str
    seconds: float = 0.0
    error: str | None = None
    result: Any = None
    printed: str = ""


class Runner(abc.ABC):
    """Runs jobs, in this process or elsewhere.

    Attributes:
        workers: how many jobs run at a time.
    """

    workers: int = 1

    @abc.abstractmethod
    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Runs jobs, each after those that it needs, and yields how each ended, in the order in which they end.

        A job that fails is begun again, `TRIES` times in all; an `InputError` would only come again, and is final. Jobs
        that need a failed one are not begun, and the others go on.

        Raises:
            Interrupted: the user asked to stop.
        """


class Serial(Runner):
    """Runs jobs in this process, in their order."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Runs jobs, see `Runner`."""
        ended: dict[str, Outcome] = {}
        for job in jobs:
            ended[job.name] = not_begun(job, ended) or _tried(job)
            yield ended[job.name]


def not_begun(job: Job, ended: Mapping[str, Outcome]) -> Outcome | None:
    """Returns the outcome of a job that needs a failed one; None for a job that can be begun."""
    failed = [name for name in job.after if ended[name].error is not None]
    return Outcome(job.name, error=f"not begun, since {failed[0]} failed") if failed else None


def _tried(job: Job) -> Outcome:
    """Calls a job until it succeeds, at most `TRIES` times."""
    reason = ""
    for attempt in range(1, TRIES + 1):
        try:
            return call(job)
        except Interrupted:
            raise
        except Exception as error:
            traceback.print_exc()
            reason = in_words(error) or type(error).__name__
            print(f"{job.name}: try {attempt} of {TRIES} failed: {reason}", file=sys.stderr)
    return Outcome(job.name, error=f"failed {TRIES} times, at last: {reason}")


def call(job: Job) -> Outcome:
    """Calls a job once.

    Returns:
        That it succeeded, or the `InputError` that it ended with.

    Raises:
        Exception: any other error of the job, after which it may be tried again.
    """
    started = time.monotonic()
    try:
        result = job.work()
    except FolderInUseError:
        # Of a job whose worker was lost: its process may still be ending.
        raise
    except InputError as error:
        return Outcome(job.name, time.monotonic() - started, in_words(error))
    return Outcome(job.name, time.monotonic() - started, result=result)
