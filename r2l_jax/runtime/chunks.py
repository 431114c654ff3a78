"""Work on many files by the workers of a cluster: each job is a chunk of them."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from r2l_jax.runtime import cluster
from r2l_jax.runtime.jobs import Job

Item = TypeVar("Item")
Result = TypeVar("Result")

# The most of a job: what one core works on for seconds to a minute. A large job outweighs the time that it takes to
# give it to a worker; of a small one, less is lost with its worker.
_BYTES = 2**29

# The fixed cost of a file, such as opening it, as the number of bytes of samples that take as long.
_EACH = 2**19

# The jobs of a worker, if there are enough items: the last ones keep all workers busy for about the same time.
_JOBS = 4


class Workers(NamedTuple):
    """The processes that work on a program's files.

    Attributes:
        scheduler: as `--scheduler` names them; "serial" is this process alone.
        load: loads what a process works with, such as a model. Called by each worker for every job, so it must be
            picklable, and remember what it returns: only a worker's first job waits for it.
    """

    scheduler: str = "serial"
    load: Callable[[], Any] | None = None

    @property
    def are_others(self) -> bool:
        """Whether other processes than this one do the work."""
        return self.scheduler != "serial"


SERIAL = Workers()


def spread(
    workers: Workers,
    work: Callable[[Any, list[Item]], Result],
    units: Sequence[list[Item]],
    size: Callable[[Item], int],
) -> Iterator[tuple[list[Item], Result | None, str]]:
    """Gives chunks of items to workers; yields each with what the work returned, or with why it failed.

    Chunks come in the order in which they end. One whose worker dies is begun again, so the work must replace what it
    has done before.

    Args:
        workers: the workers.
        work: a picklable function of what `workers.load` returns and of a chunk. It may raise an InputError for a
            chunk that no worker can do.
        units: items that must stay together.
        size: of an item, in bytes of samples.

    Raises:
        InputError: the workers cannot be started or reached.
    """
    with cluster.running(workers.scheduler, None) as runner:
        count = max(runner.workers, cluster.asked_for(workers.scheduler))
        chunks = divided(units, size, count)
        jobs = [
            Job(f"chunk {number}", functools.partial(_work, work, workers.load, chunk))
            for number, chunk in enumerate(chunks)
        ]
        by_name = {job.name: chunk for job, chunk in zip(jobs, chunks, strict=True)}
        for outcome in runner.run(jobs):
            yield by_name[outcome.name], outcome.result, outcome.error or ""


def divided(units: Sequence[list[Item]], size: Callable[[Item], int], workers: int) -> list[list[Item]]:
    """Divides items into chunks, in their order, so that each worker has several and each takes about as long.

    Args:
        units: items that must stay together.
        size: of an item, in bytes of samples.
        workers: how many chunks are worked on at a time.
    """
    sizes = [sum(size(item) + _EACH for item in unit) for unit in units]
    most = min(_BYTES, sum(sizes) / (_JOBS * workers))
    chunks, held = list[list[Item]](), 0
    for unit, own in zip(units, sizes, strict=True):
        if not chunks or held + own > most:
            chunks.append([])
            held = 0
        chunks[-1].extend(unit)
        held += own
    return chunks


def most_files(size: int) -> int:
    """Returns how many files of a size in bytes a chunk holds at most."""
    return max(_BYTES // (size + _EACH), 1)


def _work(work: Callable[[Any, list[Item]], Result], load: Callable[[], Any] | None, chunk: list[Item]) -> Result:
    return work(load() if load else None, chunk)
