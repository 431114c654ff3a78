"""Everything that can be chosen on the page."""

import dataclasses
import importlib.util
import itertools
import pathlib
from collections.abc import Mapping, Sequence

import isp
from r2l_jax.apps.files import find_paths
from r2l_jax.apps.lab import sources
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.errors import InputError, warn
from r2l_jax.names import DEMOSAICING
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.results import result
from r2l_jax.training.record import members
from r2l_jax.training.run import Run, load

LEARNED = "learned by the run"


@dataclasses.dataclass(frozen=True)
class Lab:
    """Everything that can be chosen.

    Attributes:
        sources: samples and files to open, besides those that are dropped on the page.
        cameras: the known cameras, by the name to choose; the first is the default.
        pipelines: the pipelines by the name to choose; the first is the default.
        model: the model that predicts; None shows only pictures.
        tolerances: the tolerated values of the model's knobs, see `tolerated`.
        title: the model in words.
    """

    sources: Sequence[Source]
    cameras: Mapping[str, KnownCamera]
    pipelines: Mapping[str, NamedPipeline]
    model: Run | None = None
    tolerances: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    title: str = ""


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
    """Collects everything that can be chosen, given the program's flags. For a group, the first member predicts.

    Raises:
        InputError: the run, a file, the camera or the pipeline cannot be used.
    """
    given = None if camera is None else find_known_camera(camera)
    classical = map(".".join, itertools.product(DEMOSAICING, isp.ALGORITHMS["sharpen"], isp.ALGORITHMS["denoise"]))
    names = [*([pipeline] if pipeline else []), "parametrized", "full", *classical]
    pipelines = {found.title: found for found in map(find_pipeline, names)}
    if run is None:
        offered = [sources.file_source(file, None) for file in find_paths(files)] if files else sources.examples()
        return Lab(offered, sources.cameras(None, given), pipelines)
    run = str(members(run)[0])
    model = load(run, 0, checkpoint, code, data_dir)
    if not (model.task.has_labels or model.task.has_masks):
        raise InputError(f"`run={run}`: the page shows classes and masks, and {model.task.title} predicts neither")
    if model.pipeline is None:
        raise InputError(f"`run={run}` was trained with {model.config.processing.flag}, which has no sliders")
    print(f"{run}: the {checkpoint} checkpoint")
    offered = [sources.file_source(file, model) for file in find_paths(files)] if files else []
    offered += sources.samples(model)
    metered = {title: found.metered_as(model.pipeline) for title, found in pipelines.items()}
    pipelines = {LEARNED: model.named_pipeline, **metered}
    title = f"{run}, {checkpoint} checkpoint, score {model.score:.3f}"
    return Lab(offered, sources.cameras(model, given), pipelines, model, tolerated(run, model), title)


def tolerated(run: str, model: Run) -> dict[str, tuple[float, float]]:
    """Returns the tolerated interval of each knob, as `forensics.py` has found it, in the knob's unit.

    Damaged tolerances, and tolerances of another model such as an earlier run of the same name, are left out with
    a warning.
    """
    folder = pathlib.Path(run) / "forensics" / f"fold_{model.about.fold}" / "tolerances"
    try:
        found = result.read(folder) if pathlib.Path(run).is_dir() else None
        if found is None:
            return {}
        if found.metadata["model"] == model.identity:
            return {name: (float(low), float(high)) for name, (low, high) in found.metadata["tolerated"].items()}
        warn(f"{folder}: the tolerances belong to another model, and are not shown")
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        warn(f"{folder}: the tolerances are damaged, and are not shown ({error})")
    return {}
