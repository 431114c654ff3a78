"""The work that many visitors share: one device, a few threads that read and compile, and all choices."""

import asyncio
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from r2l_jax.apps.lab import sources
from r2l_jax.apps.lab.reader_process import ReaderProcess
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.drift import results
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.training.run import Run

Result = TypeVar("Result")


class Lab:
    """Everything that visitors can choose, and the threads that work for all of them.

    Args:
        sources: samples and files to open, besides uploads.
        cameras: the known cameras, by the name to choose; the first is the default.
        pipelines: the pipelines by the name to choose; the first is the default.
        model: the model that judges pictures; None shows pictures alone.
        tolerances: the tolerated intervals of the model's own pipeline.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cameras: Mapping[str, KnownCamera],
        pipelines: Mapping[str, NamedPipeline],
        model: Run | None = None,
        tolerances: results.Tolerances | None = None,
    ):
        self.sources, self.cameras, self.pipelines = list(sources), dict(cameras), dict(pipelines)
        self.model, self.tolerances = model, tolerances
        # Files of visitors may be made to crash their decoders, or to fill the memory.
        self._reader = ReaderProcess()
        # One thread, so that pictures wait for each other in the order in which they are asked for. A visitor asks for
        # one at a time, so that there are at most as many waiting as there are visitors.
        self._device = ThreadPoolExecutor(1, "device")
        # Compiling takes seconds, in which the pictures of others must not wait.
        self._slow = ThreadPoolExecutor(2, "reader")

    async def on_device(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function whose compiled code is at hand, in the thread of the device."""
        return await _call(self._device, function, *arguments)

    async def slowly(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function that reads a file or compiles, while the device works for others."""
        return await _call(self._slow, function, *arguments)

    def upload(self, name: str, path: pathlib.Path) -> Source:
        """Returns the source of a file that a visitor has uploaded, which a process of its own reads."""
        return sources.file_source(name, path, self.model, functools.partial(self._reader.call, sources.read_file))

    def warm_up(self) -> None:
        """Starts the process that reads uploads."""
        self._reader.start()

    def close(self) -> None:
        """Drops the work that has not begun, and ends the process that reads uploads."""
        self._reader.close()
        for pool in (self._device, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


async def _call(pool: Executor, function: Callable[..., Result], *arguments: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(function, *arguments))
