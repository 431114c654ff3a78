"""Measures how the work on many files scales with workers, and computes its cost.

python -m r2l_jax.bench.scale

Measures the seconds per frame in one process and with workers on this machine, the start of a worker, and the
scheduler's time per job, with up to a hundred workers that do nothing. Needs the extra `cluster` and ten minutes. Other
running programs slow down everything but the seconds of a core.
"""

import functools
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile

from r2l_jax.runtime.cluster import Cluster, Job, import_dask
from r2l_jax.runtime.startup import exit_status
from r2l_jax.runtime.tables import table
from r2l_jax.runtime.worklist import most_files

# Frames of 24 megapixels and of the published microscopy, and how many of each are rendered to measure a slope.
FRAMES = {"4000x6000": ((4000, 6000), (8, 32)), "256x256": ((256, 256), (500, 6500))}

WORKERS = (1, 10, 100)
MILLION = 10**6


class Line(NamedTuple):
    """Seconds as a function of the number of frames.

    Attributes:
        start: the seconds before the first frame.
        frame: the seconds for each frame.
    """

    start: float
    frame: float

    @classmethod
    def through(cls, counts: Sequence[int], seconds: Sequence[float]) -> "Line":
        """Returns the line through two measurements."""
        frame = (seconds[1] - seconds[0]) / (counts[1] - counts[0])
        return cls(seconds[0] - counts[0] * frame, frame)


class Cost(NamedTuple):
    """The time that rendering takes, as lines over the number of frames.

    Attributes:
        passed: elapsed time.
        core: processor time, added up over the cores.
    """

    passed: Line
    core: Line


def rendering(folder: pathlib.Path, shape: tuple[int, int], counts: tuple[int, int], scheduler: str) -> Cost:
    """Measures `process.py` on frames of random noise.

    Args:
        folder: an empty folder.
        shape: the shape of a frame.
        counts: the two numbers of frames to measure with.
        scheduler: the value of `--scheduler`.

    Raises:
        CalledProcessError: the program fails.
    """
    frame = np.random.default_rng(0).integers(5000, 30000, shape, np.uint16)
    tifffile.imwrite(folder / "frame.tiff", frame)
    passed, core = [], []
    for count in counts:
        raw = folder / f"raw_{count}"
        raw.mkdir()
        for number in range(count):
            (raw / f"{number}.tiff").hardlink_to(folder / "frame.tiff")
        begun, computed = time.monotonic(), _of_children()
        program = "from r2l_jax.programs import start; start('process')"
        flags = (f"--input={raw}", f"--output={folder}/out_{count}", "--camera=drone", f"--scheduler={scheduler}")
        subprocess.run([sys.executable, "-c", program, *flags], check=True, capture_output=True)
        passed.append(time.monotonic() - begun)
        core.append(_of_children() - computed)
    return Cost(Line.through(counts, passed), Line.through(counts, core))


def _of_children() -> float:
    """Returns the seconds that cores have computed for the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def job_seconds(workers: int, jobs: int = 1000) -> float:
    """Measures the time that the scheduler and this program take per job, using jobs that do nothing.

    The workers are threads of this process, so that their number is not limited by its cores. All share them, so that
    the time is an upper bound.
    """
    _, distributed = import_dask()
    options: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(n_workers=workers, processes=False, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(workers, timeout=120)
        runner = Cluster(client, None)
        begun = time.monotonic()
        for outcome in runner.run([Job(f"empty {number}", functools.partial(int)) for number in range(jobs)]):
            assert outcome.error is None, outcome.error
        return (time.monotonic() - begun) / jobs


def seconds(frames: int, line: Line, workers: int, chunk: int, job: float) -> float:
    """Returns the seconds that workers take for frames, each with a core of its own.

    Args:
        frames: the number of frames.
        line: the seconds of one worker.
        workers: the number of workers.
        chunk: the number of frames in a job.
        job: the scheduler's seconds for a job; it gives out one at a time.
    """
    jobs = math.ceil(frames / chunk)
    return line.start + max(math.ceil(jobs / workers) * chunk * line.frame, jobs * job)


def main() -> None:
    """Measures, and prints the results as tables."""
    jobs = {workers: job_seconds(workers) for workers in WORKERS}
    print(table([["workers", "ms a job"], *([str(count), f"{1000 * seconds:.1f}"] for count, seconds in jobs.items())]))
    for name, (shape, counts) in FRAMES.items():
        rows = [["frames of " + name, "seconds at the start", "frames a second", "core seconds a frame"]]
        costs = {}
        for scheduler in ("serial", "local:1", "local:2"):
            with tempfile.TemporaryDirectory() as folder:
                costs[scheduler] = passed, core = rendering(pathlib.Path(folder), shape, counts, scheduler)
            rows.append([scheduler, f"{passed.start:.1f}", f"{1 / passed.frame:.2f}", f"{core.frame:.4f}"])
        print(f"\n{table(rows)}")
        chunk, one = most_files(math.prod(shape) * 2), costs["local:1"].core
        rows = [["a million " + name, "hours", "workers that the scheduler keeps busy"]]
        for workers in WORKERS:
            hours = seconds(MILLION, one, workers, chunk, jobs[workers]) / 3600
            rows.append([f"{workers} workers", f"{hours:.1f}", f"{chunk * one.frame / jobs[workers]:.0f}"])
        print(f"\n{table(rows)}", flush=True)
    print(f"\nload: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv))
