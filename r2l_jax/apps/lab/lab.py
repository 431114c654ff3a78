"""The work that many visitors share: one device, a few threads that read and compile, and all choices."""

import asyncio
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from r2l_jax.apps.lab import pipelines, sources
from r2l_jax.apps.lab.config import LabConfig
from r2l_jax.apps.lab.reader_process import ReaderProcess
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.drift import results
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.training.run import Run, open_run

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


def run(config: LabConfig) -> None:
    """Serves the page until the program is interrupted.

    Raises:
        InputError: NiceGUI is not installed; a run, a file, a camera or a pipeline cannot be used; or the address
            cannot be listened on.
    """
    if importlib.util.find_spec("nicegui") is None:
        raise InputError("the page needs NiceGUI: pip install 'r2l_jax[lab]'")
    # Imported here, because it needs NiceGUI.
    from r2l_jax.apps.lab.server import serve

    model = None if config.run is None else _model(config.run, config)
    title = "" if model is None else f"{config.run}, {model.about.checkpoint} checkpoint, score {model.score:.3f}"
    serve(make_lab(config, model), title, config.host, config.port, int(config.max_upload * 2**20))


def make_lab(config: LabConfig, model: Run | None) -> Lab:
    """Collects everything that visitors can choose.

    Raises:
        InputError: a file, a camera or a pipeline cannot be used.
    """
    given = None if config.camera is None else find_known_camera(config.camera)
    own = None if config.pipeline is None or model is not None else find_pipeline(config.pipeline)
    offered, tolerances = sources.given_files(config.input, model), None
    if model is not None and config.run is not None:
        offered += sources.validation_samples(config.run, model, config.data_dir)
        tolerances = read_tolerances(config.run, model)
    return Lab(offered, sources.cameras(model, given), pipelines.pipelines(model, own), model, tolerances)


def _model(run: str, config: LabConfig) -> Run:
    model = open_run(run, ["0"], config.checkpoint, config.pipeline, config.data_dir)
    if model.pipeline is None:
        raise InputError(f"--run={run} was trained with {model.config.processing.flag}, which has no sliders")
    print(f"{run}: the {config.checkpoint} checkpoint")
    return model


def read_tolerances(run: str, model: Run) -> results.Tolerances | None:
    """Reads the tolerated intervals that `forensics.py` has left in the folder of a run or fold.

    Tolerances of another model, such as an earlier training of the same name, are left out with a warning, and so are
    damaged ones.
    """
    file = pathlib.Path(run) / "forensics" / f"fold_{model.about.fold}" / "tolerances" / "tolerances.json"
    try:
        found = results.read_result(file, results.Tolerances)
    except InputError as error:
        warn(str(error))
        return None
    if found is not None and found.identity.get("model") != model.folds[0].fingerprint:
        warn(f"{file}: the tolerances are those of another model, and are not shown")
        return None
    return found
