"""Jobs on the workers of a Dask cluster: processes of this machine, a running scheduler, or a Slurm cluster.

Needs the extra `cluster`. Every worker runs one job at a time, and all workers see the files of the program that gives
them jobs. A job whose worker dies is begun again by another one.
"""

import collections
import contextlib
import io
import json
import logging
import os
import pathlib
import re
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any

from tqdm import tqdm

from r2l_jax.runtime.errors import InputError, in_words, one_line
from r2l_jax.runtime.jobs import TRIES, Job, Outcome, Runner, Serial, call, not_begun

# The help of `--scheduler`.
SETTING = (
    "where jobs run: serial, in this process; local:<n>, in n processes of this machine; tcp://<host>:<port>, on the "
    "workers of a Dask scheduler; or a JSON file with the options of a Slurm cluster"
)

_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")

# Options of a Slurm cluster's file that are not those of dask_jobqueue.SLURMCluster.
_JOBS = "jobs"
_PROLOGUE = "job_script_prologue"

# `startup.keep_memory` comes too late in a worker: Dask has started threads, whose arenas cannot keep large arrays. A
# frame of 24 megapixels would take 0.8 s of a core more.
# Workers would warn of the jobs that they give up when a program is interrupted.
_ENVIRON = {"MALLOC_ARENA_MAX": "1", "DASK_LOGGING__DISTRIBUTED": "error"}

# After so many seconds, jobs are given to workers that have come meanwhile.
_SECONDS = 5


@contextlib.contextmanager
def running(scheduler: str, logs: pathlib.Path | None) -> Iterator[Runner]:
    """Starts or joins the workers that a `--scheduler` names, and ends those that it started.

    Args:
        scheduler: "serial", "local:<n>", "tcp://<host>:<port>", or a JSON file with the options of
            `dask_jobqueue.SLURMCluster` and the number of `jobs`, each of which starts the workers of one allocation.
        logs: the folder for what jobs of other processes print, in a file for each job; None prints it to stderr when
            the job has ended.

    Raises:
        InputError: a scheduler that is not of these forms or cannot be reached, a file that cannot be read, or the
            extra `cluster` is not installed.
    """
    if scheduler == "serial":
        yield Serial()
        return
    check(scheduler)
    dask, distributed = import_dask()
    # Dask would give the job of a worker that died to another one at once, which may have a job already: both would
    # count as having failed if that one dies. `Cluster.run` gives it to a worker that is free.
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    environ = dask.config.get("distributed.nanny.pre-spawn-environ")
    dask.config.set({"distributed.nanny.pre-spawn-environ": {**environ, **_ENVIRON}})
    with contextlib.ExitStack() as held:
        if local := _LOCAL.fullmatch(scheduler):
            # Without a limit: workers keep freed memory for their next arrays, for which Dask would pause or kill them.
            options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
            with _interrupts_blocked():
                place = held.enter_context(distributed.LocalCluster(n_workers=int(local[1]), processes=True, **options))
        elif scheduler.startswith("tcp://"):
            place = scheduler
        else:
            place = held.enter_context(_slurm(pathlib.Path(scheduler)))
        try:
            client = held.enter_context(distributed.Client(place, timeout=30))
        except OSError as error:
            raise InputError(f"--scheduler={scheduler} cannot be reached: {one_line(error)}") from None
        try:
            yield Cluster(client, logs)
        except KeyboardInterrupt:
            # The program ends, and with it workers in the midst of a job, of which Dask would warn.
            logging.getLogger("distributed").setLevel(logging.ERROR)
            raise


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT in the threads that start in the block, and in the processes that those start.

    Ctrl-C reaches the workers as well, which would end with a traceback each; they end with this process. An interrupt
    that comes meanwhile takes effect after the block.
    """
    resource_tracker.ensure_running()  # Otherwise started with the first worker, after which it unblocks the signal.
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def check(scheduler: str) -> None:
    """Raises an InputError unless a `--scheduler` has one of the forms of `running`, and its packages are there."""
    if scheduler == "serial":
        return
    if not _LOCAL.fullmatch(scheduler) and not scheduler.startswith("tcp://"):
        if not scheduler.endswith(".json"):
            raise InputError(
                "--scheduler must be serial, local:<number of processes>, tcp://<host>:<port> or a JSON file, "
                f"got {scheduler!r}"
            )
        read_slurm(pathlib.Path(scheduler))
    import_dask()


def prepare(scheduler: str) -> None:
    """Checks a `--scheduler` as `check` does, and leaves the memory of GPUs to its workers.

    Must be called before this process computes anything.
    """
    check(scheduler)
    if scheduler != "serial":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def asked_for(scheduler: str) -> int:
    """Returns how many workers a `--scheduler` asks for; 1 where the scheduler decides."""
    if local := _LOCAL.fullmatch(scheduler):
        return int(local[1])
    return read_slurm(pathlib.Path(scheduler))[1] if scheduler.endswith(".json") else 1


def import_dask() -> tuple[Any, Any]:
    """Imports Dask, which takes a second, and returns its modules `dask` and `distributed`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import dask.config

        # Of what workers begin and end, only losses are news.
        dask.config.set({"logging": {"distributed": "warning"}})
        import distributed
    except ImportError:
        raise InputError("the workers of --scheduler need Dask: pip install 'r2l_jax[cluster]'") from None
    return dask, distributed


def read_slurm(file: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Reads the options of a Slurm cluster, and the number of its jobs.

    Raises:
        InputError: the file cannot be read, or does not hold them.
    """
    try:
        options = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler={file} cannot be read: {in_words(error)}") from None
    if not isinstance(options, dict) or not isinstance(jobs := options.pop(_JOBS, None), int) or jobs < 1:
        raise InputError(
            f"--scheduler={file} must hold the options of dask_jobqueue.SLURMCluster and the number of jobs, such as "
            '{"jobs": 8, "cores": 8, "memory": "32GB", "walltime": "08:00:00"}'
        )
    return options, jobs


def _slurm(file: pathlib.Path) -> Any:
    """Starts a Slurm cluster: its jobs begin as Slurm has room for them."""
    options, jobs = read_slurm(file)
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise InputError("--scheduler needs dask-jobqueue: pip install 'r2l_jax[cluster]'") from None
    try:
        prologue = [*(f"export {name}={value}" for name, value in _ENVIRON.items()), *options.pop(_PROLOGUE, [])]
        # One worker of one thread for each job, so that a job has the memory and the GPU of its allocation.
        defaults = {"processes": 1, "worker_extra_args": ["--nthreads", "1"], _PROLOGUE: prologue}
        cluster = SLURMCluster(**{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise InputError(f"--scheduler={file}: {one_line(error)}") from None
    cluster.scale(jobs=jobs)
    return cluster


class Cluster(Runner):
    """Runs jobs on the workers of a Dask client.

    Args:
        client: the `distributed.Client`.
        logs: the folder for what jobs print; None prints it to stderr.

    Attributes:
        workers: the number of workers that are there now, at least 1.
    """

    def __init__(self, client: Any, logs: pathlib.Path | None):
        self._client, self._logs = client, logs and logs.absolute()
        threads = {name: worker["nthreads"] for name, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
        for name, count in threads.items():
            if count != 1:
                raise InputError(f"--scheduler: the worker {name} has {count} threads; start workers with --nthreads 1")
        self.workers = max(len(threads), 1)
        from r2l_jax.runtime.worker import Prepared

        client.register_plugin(Prepared())

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Runs jobs, see `Runner`."""
        waiting, begun, ended = list(jobs), {}, {}
        tries = collections.Counter()
        while waiting or begun:
            free = self._count_workers() - len(begun)
            for job in list(waiting):
                if free <= 0:
                    break
                if any(name not in ended for name in job.after):
                    continue
                waiting.remove(job)
                outcome = not_begun(job, ended)
                if outcome is None:
                    begun[job.name] = job, self._submit(job)
                    free -= 1
                else:
                    ended[job.name] = outcome
                    yield outcome
            for name in _finished({name: future for name, (_, future) in begun.items()}):
                job, future = begun.pop(name)
                outcome, is_final = _outcome(name, future)
                # A result that is kept is computed anew when its worker is lost.
                future.release()
                tries[name] += 1
                if not is_final and tries[name] < TRIES:
                    waiting.insert(0, job)
                    continue
                if outcome.printed:
                    tqdm.write(outcome.printed, file=sys.stderr, end="")
                # Of thousands of jobs, only how they ended is remembered.
                ended[name] = Outcome(name, error=outcome.error)
                yield outcome

    def _count_workers(self) -> int:
        """Returns how many jobs can run, one for each worker.

        More at a time would wait at a worker, and count as having died with it. At least one waits until there is a
        worker.
        """
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        # One that is just starting is listed, and gets no jobs yet.
        return max(sum(worker["status"] == "running" for worker in workers), 1)

    def _submit(self, job: Job) -> Any:
        # Only the call is sent: what else a job knows may not be picklable.
        call = Job(job.name, job.work)
        # Other programs may have given the scheduler a job of the same name, whose result this one would be.
        key = f"{job.name} {uuid.uuid4().hex}"
        return self._client.submit(_call_elsewhere, call, os.getcwd(), self._logs, key=key, pure=False)


def _finished(futures: Mapping[str, Any]) -> list[str]:
    """Waits until a future ends, or for some seconds, in which workers may have come; returns the names that ended."""
    import distributed

    if futures:
        with contextlib.suppress(TimeoutError):
            distributed.wait(list(futures.values()), timeout=_SECONDS, return_when="FIRST_COMPLETED")
    return [name for name, future in futures.items() if future.done()]


def _outcome(name: str, future: Any) -> tuple[Outcome, bool]:
    """Returns the outcome of a job whose future has ended, and whether another try could not change it."""
    if future.status == "finished":
        return future.result(), True
    error = future.exception()
    lost = type(error).__name__ == "KilledWorker"
    reason = "its worker was lost each time" if lost else in_words(error) or type(error).__name__
    return Outcome(name, error=f"failed {TRIES} times, at last: {reason}"), False


def _call_elsewhere(job: Job, folder: str, logs: pathlib.Path | None) -> Outcome:
    """Calls a job in a worker, in the folder of the program that gave it, and keeps what it prints."""
    with contextlib.ExitStack() as held:
        # A worker of another machine may not have that folder, and need none.
        if os.path.isdir(folder):
            held.enter_context(contextlib.chdir(folder))
        if logs is None:
            log = io.StringIO()
        else:
            logs.mkdir(parents=True, exist_ok=True)
            file = logs / f"{re.sub('[^A-Za-z0-9_=.-]+', '_', job.name)}.txt"
            log = held.enter_context(file.open("a", buffering=1))
        held.enter_context(contextlib.redirect_stdout(log))
        held.enter_context(contextlib.redirect_stderr(log))
        outcome = call(job)
    return outcome._replace(printed=log.getvalue()) if isinstance(log, io.StringIO) else outcome
