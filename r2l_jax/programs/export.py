"""Exports a trained model, or only its processing or its head, to StableHLO and ONNX.

python scripts/export.py --run=runs/quickstart/small --output=exported
python scripts/export.py --run=runs/quickstart/small --output=isp_to_tune --parts=isp --formats=stablehlo --gradient

A group of seeds is exported as one function, which averages the probabilities of its members; --run may also be a file
model.safetensors. Each file is compared with the model on samples of the run's data, or on raw files, and is refused if
it differs by more than 1e-4. The output also has model.json, which describes the model, and example.py, which runs the
ONNX files with only NumPy and onnxruntime. The exit status is 1 if something could not be exported.
"""

import dataclasses
import pathlib

from r2l_jax.cli.flags import NOT_NEGATIVE, POSITIVE, setting
from r2l_jax.config import FinishedRun
from r2l_jax.errors import InputError
from r2l_jax.names import EXPORT_FORMATS, EXPORT_PARTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(FinishedRun):
    """Export."""

    output: str = setting("folder for the export; it must not hold an earlier export")
    parts: tuple[str, ...] | None = setting(
        f"some of {', '.join(EXPORT_PARTS)}, separated by commas; default: all that the model has",
        None,
        each=EXPORT_PARTS,
    )
    formats: tuple[str, ...] | None = setting(
        f"some of {', '.join(EXPORT_FORMATS)}, separated by commas; default: all; onnx only if its packages are "
        "installed, and camera only if the processing starts from a camera",
        None,
        each=EXPORT_FORMATS,
    )
    size: tuple[int, ...] | None = setting(
        "height,width of the raw images that the export takes, in pixels; default: the training size",
        None,
        bound=POSITIVE,
    )
    gradient: bool = setting("include the reverse-mode derivative in StableHLO, for tuning parameters", False)
    fold: int = setting("number of the fold to export", 0, bound=NOT_NEGATIVE)
    input: tuple[str, ...] = setting(
        "raw files and folders to check the export on; default: samples of the run's data", (), kind="repeated"
    )
    camera: str | None = setting(
        "the camera of --input: drone, microscopy, a JSON file, or auto, as for predict.py", None, needs="input"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.gradient and self.formats is not None and "stablehlo" not in self.formats:
            raise InputError(f"`gradient` is for `formats=stablehlo`, got `formats={','.join(self.formats)}`")
        if self.size is not None and (len(self.size) != 2 or any(side % 2 for side in self.size)):
            given = ",".join(map(str, self.size))
            raise InputError(f"`size` must be an even height and an even width, such as `size=512,768`, got {given}")


def main(config: ExportConfig) -> int:
    """Exports the model that the flags name, and returns the exit status."""
    from r2l_jax.apps.export.export import export_model, report
    from r2l_jax.apps.export.samples import samples_of
    from r2l_jax.apps.files import find_paths
    from r2l_jax.data.files.known_camera import find_known_camera
    from r2l_jax.model.heads import weights_of
    from r2l_jax.training.run import load

    model = load(config.run, config.fold, config.checkpoint, config.code, config.data_dir)
    models = f" of {len(model.folds)} models" if len(model.folds) > 1 else ""
    print(f"{config.run}: the {config.checkpoint} checkpoint of fold {model.about.fold}{models}")
    size = None if config.size is None else (config.size[0], config.size[1])
    camera = None if config.camera is None else find_known_camera(config.camera)
    files = find_paths(config.input) if config.input else ()
    output = pathlib.Path(config.output)
    checked_on = samples_of(model, files, camera, size)
    status = report(export_model(model, output, checked_on, config.parts, config.formats, config.gradient))
    if weights_of(model.model.head):
        print(
            "export the network with its own framework; its input is (image - mean) / standard_deviation, with the "
            f'values of "normalization" in {output / "model.json"}, which adaptation changes'
        )
    return status
