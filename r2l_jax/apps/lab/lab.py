"""The choices and the work that all visitors share: one device, and a few threads that read and compile."""

import asyncio
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import isp
from r2l_jax.apps.lab import sources
from r2l_jax.apps.lab.reader_process import ReaderProcess
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.drift import results
from r2l_jax.drift.watch.results import Watched
from r2l_jax.names import DEMOSAICING
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.runtime.named_code import is_file
from r2l_jax.runtime.store import hash_json
from r2l_jax.training.record import members
from r2l_jax.training.run import Run, load

Result = TypeVar("Result")

LEARNED = "learned by the run"

# The algorithms of each step of a classical pipeline, whose name joins three of them.
STEPS = {
    "demosaic": DEMOSAICING,
    "sharpen": tuple(isp.ALGORITHMS["sharpen"]),
    "denoise": tuple(isp.ALGORITHMS["denoise"]),
}


class Lab:
    """Everything that visitors can choose, and the threads that work for all of them.

    Args:
        sources: samples and files to open, besides uploads.
        cameras: the known cameras, by the name to choose; the first is the default.
        pipelines: the pipelines by the name to choose, besides classical ones; the first is the default.
        model: the model that judges pictures; None shows only pictures.
        tolerances: the tolerated intervals of the model's own pipeline.
        title: the model in words.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cameras: Mapping[str, KnownCamera],
        pipelines: Mapping[str, NamedPipeline],
        model: Run | None = None,
        tolerances: results.Tolerances | None = None,
        title: str = "",
    ):
        self.sources, self.cameras, self.pipelines = list(sources), dict(cameras), dict(pipelines)
        self.model, self.tolerances, self.title = model, tolerances, title
        # Visitors' files may be crafted to crash their decoders, or to fill the memory.
        self._reader = ReaderProcess()
        # One thread, so that pictures are computed in the order of the requests. A visitor asks for one at a time, so
        # at most as many are waiting as there are visitors.
        self._device = ThreadPoolExecutor(1, "device")
        # Compiling takes seconds, in which the pictures of others must not wait.
        self._slow = ThreadPoolExecutor(2, "reader")

    def pipeline(self, name: str) -> NamedPipeline:
        """Finds a pipeline by the name to choose, or a classical one by its algorithms.

        Raises:
            InputError: there is no such pipeline.
        """
        if name not in self.pipelines and is_file(name):
            # A visitor names no files of this machine.
            raise InputError(f"no pipeline is called {name!r}")
        return self.pipelines.get(name) or find_pipeline(name)

    async def on_device(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function whose compiled code is at hand, in the thread of the device."""
        return await asyncio.get_running_loop().run_in_executor(self._device, function, *arguments)

    async def slowly(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function that reads a file or compiles, while the device works for others."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)

    def upload(self, name: str, path: pathlib.Path) -> Source:
        """Returns the source of a file that a visitor has uploaded, which a separate process reads."""
        return sources.file_source(name, path, self.model, functools.partial(self._reader.call, sources.read_file))

    def warm_up(self) -> None:
        """Starts the process that reads uploads."""
        self._reader.start()

    def close(self) -> None:
        """Drops the work that has not begun, and ends the process that reads uploads."""
        self._reader.close()
        for pool in (self._device, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


def check_installed() -> None:
    """Raises an InputError unless NiceGUI is installed."""
    if importlib.util.find_spec("nicegui") is None:
        raise InputError("the page needs NiceGUI: pip install 'r2l_jax[lab]'")


def make_lab(
    run: str | None,
    checkpoint: str,
    data_dir: str | None,
    files: Sequence[str],
    camera: str | None,
    pipeline: str | None,
    code: Sequence[str] = (),
) -> Lab:
    """Collects everything that visitors can choose.

    Args:
        run: a finished run, one of its folds, or the file of a model; of a group, its first member.
        checkpoint: the checkpoint of the run.
        data_dir: the folder of the run's data; None if it has not moved.
        files: raw files and folders of them.
        camera: the initial camera of raw files.
        pipeline: another pipeline to offer, such as the user's.
        code: the code of the run, see `load`.

    Raises:
        InputError: the run, a file, the camera or the pipeline cannot be used.
    """
    given = None if camera is None else find_known_camera(camera)
    names = [*([pipeline] if pipeline else []), "parametrized", "full"]
    pipelines = {found.title: found for found in map(find_pipeline, names)}
    if run is None:
        offered = sources.given_files(files, None) if files else sources.examples()
        return Lab(offered, sources.cameras(None, given), pipelines)
    named, run = run, str(members(run)[0])
    model = load(run, 0, checkpoint, code, data_dir)
    if model.pipeline is None:
        raise InputError(f"--run={run} was trained with {model.config.processing.flag}, which has no sliders")
    print(f"{run}: the {checkpoint} checkpoint")
    offered = sources.given_files(files, model) + sources.validation_samples(run, model, data_dir)
    title = f"{run}, {model.about.checkpoint} checkpoint, score {model.score:.3f}{_watched(named)}"
    others = {title: found.metered_as(model.pipeline) for title, found in pipelines.items()}
    pipelines = {LEARNED: model.named_pipeline, **others}
    return Lab(offered, sources.cameras(model, given), pipelines, model, read_tolerances(run, model), title)


def _watched(run: str) -> str:
    """Returns the verdict of the latest watch over a run or a group, to follow its title; empty without one."""
    try:
        found = results.read_result(pathlib.Path(run) / "monitor" / "monitor.json", Watched)
    except InputError as error:
        warn(str(error))
        return ""
    return f"; watch: {found.verdict}" if found else ""


def read_tolerances(run: str, model: Run) -> results.Tolerances | None:
    """Reads the tolerated intervals that `forensics.py` has left in the folder of a run or fold.

    Damaged tolerances, and tolerances of another model such as an earlier training of the same name, are left out with
    a warning.
    """
    file = pathlib.Path(run) / "forensics" / f"fold_{model.about.fold}" / "tolerances" / "tolerances.json"
    try:
        found = results.read_result(file, results.Tolerances)
    except InputError as error:
        warn(str(error))
        return None
    if found is not None and found.identity.get("model") != hash_json(model.identity):
        warn(f"{file}: the tolerances belong to another model, and are not shown")
        return None
    return found
