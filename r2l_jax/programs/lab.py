"""Serves a web page on which raw files are processed live, with a trained model's predictions for them.

python scripts/lab.py
python scripts/lab.py --run=runs/quickstart/small
python scripts/lab.py --input=more_raw_files --camera=drone --port=9000

Open the printed address in a browser, drop a raw file or pick a sample, choose a pipeline, and move its sliders. With a
run, the page also shows the probabilities of the classes, the direction in which each slider raises the loss, and the
intervals that the model tolerates, as measured by forensics.py. The page needs NiceGUI: pip install 'r2l_jax[lab]'.
"""

import dataclasses

import msgspec

from r2l_jax.cli.flags import Settings, setting
from r2l_jax.config import CHECKPOINTS, CODE, WHICH_CHECKPOINT

_PORT = msgspec.Meta(ge=0, lt=2**16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabConfig(Settings):
    """Page."""

    run: str | None = setting(
        "the model that predicts: a finished run, one of its folds, or a file model.safetensors; for a group of "
        "seeds, its first member",
        None,
    )
    checkpoint: str = setting(f"with --run, {WHICH_CHECKPOINT}", "best", choices=CHECKPOINTS, needs="run")
    data_dir: str | None = setting(
        "with --run, folder of its data set, for validation samples; default: where it was in training",
        None,
        needs="run",
    )
    input: tuple[str, ...] = setting("raw files and folders to choose from, separated by commas", (), kind="repeated")
    camera: str | None = setting(
        "the camera to start with: drone, microscopy, or a JSON file; the page offers others", None
    )
    pipeline: str | None = setting("a custom pipeline to offer as well, as <file>.py:<function>", None)
    code: tuple[str, ...] = setting(f"with --run, {CODE}", (), needs="run")
    port: int = setting("the port to listen on; 0 for any free port", 8080, bound=_PORT)


def main(config: LabConfig) -> None:
    """Serves the page until the program is interrupted."""
    from r2l_jax.apps.lab.lab import check_installed, make_lab

    check_installed()
    from r2l_jax.apps.lab.server import serve

    of_run = config.run, config.checkpoint, config.data_dir
    lab = make_lab(*of_run, config.input, config.camera, config.pipeline, config.code)
    serve(lab, config.port)
