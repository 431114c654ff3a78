"""Renders raw files to pictures.

python scripts/process.py --input=IMG_0001.dng --output=pictures
python scripts/process.py --input=IMG_0001.dng --output=menon2007 --processing_mode=static --sp_debayer=menon2007
python scripts/process.py --input=IMG_0001.dng --output=mine --pipeline=my_isp.py:make
python scripts/process.py --input=raw_folder,one_more.nef --camera=drone --output=drone --format=png --stages

Pictures are 16-bit TIFF or 8-bit PNG, as the differentiable pipeline `isp.parametrized`, a pipeline of classical
algorithms, `isp.static`, or one of your own renders them, in the sensor's orientation. <output>/manifest.json says by
which pipeline and for which camera: the same command goes on, and other settings need another folder. The exit status
is 1 if any file could not be rendered.
"""

import dataclasses
import pathlib

from r2l_jax.apps import render
from r2l_jax.config import ProcessingChoice
from r2l_jax.data.files.cameras import find_calibration
from r2l_jax.runtime import flags
from r2l_jax.runtime.flags import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderConfig(ProcessingChoice):
    """Rendering."""

    input: tuple[str, ...] = setting("raw files and folders of them, separated by commas", kind="repeated")
    output: str = setting("folder for the pictures, named as the raw files are")
    camera: str = setting("drone, microscopy, a JSON file, or auto: each file's own calibration", "auto")
    processing_mode: str | None = setting(
        "parametrized: the differentiable pipeline as it starts; static: one of classical algorithms; default: "
        "parametrized, or the --pipeline",
        None,
        choices=("parametrized", "static"),
    )
    format: render.FileFormat = setting("16-bit TIFF or 8-bit PNG", "tiff", choices=("tiff", "png"))
    stages: bool = setting(
        "also write <name>_stages.png, the image after each stage: before gamma_correct it is linear and looks dark",
        False,
    )


def main(config: RenderConfig) -> int:
    """Renders the files that the flags name, and returns the exit status."""
    rendered, failed = render.render_files(
        render.find_raw_files(config.input),
        pathlib.Path(config.output),
        find_calibration(config.camera),
        config.format,
        config.stages,
        config.named_pipeline,
    )
    print(f"{rendered} rendered, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    flags.run(main, RenderConfig)
