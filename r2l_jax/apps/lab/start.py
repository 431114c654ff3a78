"""Starts the page: opens the run, the files and the pipelines that its visitors can choose."""

import importlib.util
import pathlib

from r2l_jax.apps.lab import pipelines, sources
from r2l_jax.apps.lab.config import LabConfig
from r2l_jax.apps.lab.lab import Lab
from r2l_jax.data.files.known_camera import find_known_camera
from r2l_jax.drift import results
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.training.run import Run, open_run


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

    Damaged tolerances, and those from another model such as an earlier training of the same name, are left out with a
    warning.
    """
    file = pathlib.Path(run) / "forensics" / f"fold_{model.about.fold}" / "tolerances" / "tolerances.json"
    try:
        found = results.read_result(file, results.Tolerances)
    except InputError as error:
        warn(str(error))
        return None
    if found is not None and found.identity.get("model") != model.folds[0].fingerprint:
        warn(f"{file}: the tolerances belong to another model, and are not shown")
        return None
    return found
