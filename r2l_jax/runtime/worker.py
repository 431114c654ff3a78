"""A worker of a Dask cluster: prepares its process once, before its first job. Needs the extra `cluster`."""

import os
import pathlib
from collections.abc import Mapping

import distributed

from r2l_jax.runtime import startup
from r2l_jax.runtime.garbage import collect_rarely


class Prepared(distributed.WorkerPlugin):
    """Gives each worker of this machine a GPU of its own, and keeps memory and compiled functions in its process."""

    name = "r2l_jax"

    def setup(self, worker: distributed.Worker) -> None:
        """Prepares the process of a worker, before anything in it uses JAX."""
        gpus = visible_gpus(os.environ)
        # The workers of a local cluster are numbered. Those of others are given their GPU by who starts them.
        if isinstance(worker.name, int) and gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[worker.name % len(gpus)]
        collect_rarely()
        startup.prepare(any_thread=True)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Lists the NVIDIA GPUs of this machine that a program may use, without starting CUDA on them."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    files = pathlib.Path("/dev").glob("nvidia[0-9]*")
    return sorted((file.name.removeprefix("nvidia") for file in files), key=int)
