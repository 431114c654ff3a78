"""Loads everything that the page offers, and serves it."""

import importlib.util

from r2l_jax.apps.lab import choices, sources, tolerated
from r2l_jax.apps.lab.config import LabConfig
from r2l_jax.apps.lab.shared import Lab
from r2l_jax.data.files.cameras import find_known_camera
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.loaded import TrainedModel, load_folds


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


def make_lab(config: LabConfig, model: TrainedModel | None) -> Lab:
    """Collects everything that visitors can choose.

    Args:
        config: names the run and the files.
        model: the model of the run.

    Raises:
        InputError: a file, a camera or a pipeline cannot be used.
    """
    given = None if config.camera is None else find_known_camera(config.camera)
    own = None if config.pipeline is None or model is not None else find_pipeline(config.pipeline)
    offered, tolerances = sources.given_files(config.input, model), None
    if model is not None and config.run is not None:
        named = () if config.pipeline is None else (config.pipeline,)
        offered += sources.validation_samples(config.run, model, config.data_dir, named, config.checkpoint)
        tolerances = tolerated.read(config.run, model)
    return Lab(offered, sources.cameras(model, given), choices.pipelines(model, own), model, tolerances)


def _model(run: str, config: LabConfig) -> TrainedModel:
    (model,) = load_folds(run, ["0"], config.checkpoint, config.pipeline)
    if model.pipeline is None:
        raise InputError(f"--run={run} was trained with {model.config.processing.flag}, which has no sliders")
    print(f"{run}: the {config.checkpoint} checkpoint")
    return model
