"""Renders raw files to pictures.

python scripts/process.py --input=IMG_0001.dng --output=pictures
python scripts/process.py --input=IMG_0001.dng --output=menon2007 --processing_mode=static --sp_debayer=menon2007
python scripts/process.py --input=IMG_0001.dng --output=learned --run=runs/quickstart/small
python scripts/process.py --input=raw_folder,one_more.nef --camera=drone --output=drone --format=png --stages

Pictures are 16-bit TIFF or 8-bit PNG, in the sensor's orientation. They are rendered by the differentiable pipeline
`isp.parametrized`, a pipeline of classical algorithms (`isp.static`), a custom one, or the pipeline that a run has
learned. <output>/result.json records the pipeline and the camera. Repeat the command to resume, and choose another
folder for other settings. The exit status is 1 if any file could not be rendered.
"""

import copy
import dataclasses
import functools
from typing import Any, Literal

from r2l_jax import jobs
from r2l_jax.cli.flags import setting
from r2l_jax.config import CHECKPOINTS, CODE, WHICH_CHECKPOINT
from r2l_jax.data.files import remote
from r2l_jax.errors import InputError
from r2l_jax.model.settings import STATIC_FLAGS, ProcessingChoice
from r2l_jax.names import AUTO


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderConfig(ProcessingChoice):
    """Rendering."""

    input: tuple[str, ...] = setting(
        f"raw files and folders, separated by commas, each {remote.BY_URL}", kind="repeated"
    )
    output: str = setting("folder for the pictures, which get the names of the raw files")
    camera: str | None = setting(
        "drone, microscopy, a JSON file, or auto: each file's own calibration; default: auto, and with --run the "
        "training camera for TIFF, PNG, PGM, NPY, CZI and ND2",
        None,
    )
    run: str | None = setting(
        "render with the learned processing of a finished run, one of its folds, a group of seeds (of the first "
        "member), a file model.safetensors, or hf://<owner>/<name>, a model on the hub",
        None,
    )
    checkpoint: str = setting(f"with --run, {WHICH_CHECKPOINT}", "best", choices=CHECKPOINTS, needs="run")
    processing_mode: str = setting(
        "parametrized: the differentiable pipeline at its initial values; static: a pipeline of classical algorithms",
        "parametrized",
        choices=("parametrized", "static"),
    )
    auto: tuple[str, ...] = setting(
        "meter each raw image before the pipeline: exposure, white_balance, or none; see isp.metering", (), each=AUTO
    )
    code: tuple[str, ...] = setting(f"with --run, {CODE}", (), needs="run")
    scheduler: str = setting(jobs.SETTING, "serial")
    format: Literal["tiff", "png"] = setting("16-bit TIFF or 8-bit PNG", "tiff", choices=("tiff", "png"))
    stages: bool = setting(
        "also write <name>_stages.png, the image after each stage; before gamma_correct, images are linear and dark",
        False,
    )

    def __post_init__(self):
        for name in ("processing_mode", "pipeline", *STATIC_FLAGS, "half_size", "auto"):
            if self.run is not None and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"`run={self.run}` sets the processing: leave `{name}` out")
        super().__post_init__()


@functools.lru_cache(maxsize=1)
def _load(config: RenderConfig) -> Any:
    """Loads the `Processing` that renders the files, once per process."""
    from r2l_jax.apps.files import Cameras
    from r2l_jax.apps.render import Processing
    from r2l_jax.data.files.known_camera import find_known_camera
    from r2l_jax.training.run import load

    camera = None if config.camera is None else find_known_camera(config.camera)
    if config.run is not None:
        model = load(config.run, 0, config.checkpoint, config.code)
        return Processing(model.named_pipeline, Cameras.of_run(model, camera))
    # A copy remembers the pipeline: the settings themselves are sent to other processes, which a pipeline cannot be.
    pipeline = copy.copy(config).named_pipeline
    assert pipeline is not None
    known = camera or find_known_camera("auto")
    return Processing(pipeline.metered(config.auto), Cameras(known, known))


def main(config: RenderConfig) -> int:
    """Renders the files that the flags name, and returns the exit status."""
    from r2l_jax.apps.files import closing, find_raw_files
    from r2l_jax.apps.render import Pictures, render_files
    from r2l_jax.training.record import members

    jobs.prepare(config.scheduler)
    if config.run is not None:
        config = dataclasses.replace(config, run=str(members(config.run)[0]))
    processing = _load(config)
    if config.run is not None:
        print(f"{config.run}: the {config.checkpoint} checkpoint")
    files = find_raw_files(config.input)
    pictures = Pictures(remote.on_disk("output", config.output), config.format, config.stages)
    load = functools.partial(_load, config)
    counts = render_files(files, pictures, processing, config.scheduler, load)
    print(closing(counts, files, "rendered"))
    return 1 if counts[1] else 0
