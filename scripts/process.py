"""Renders raw files to pictures.

python scripts/process.py --input=IMG_0001.dng --output=pictures
python scripts/process.py --input=IMG_0001.dng --output=pictures --processing_mode=static --sp_debayer=menon2007
python scripts/process.py --input=IMG_0001.dng --output=pictures --pipeline=my_isp.py:make
python scripts/process.py --input=raw_folder,one_more.nef --camera=drone --output=pictures --format=png --stages

Pictures are 16-bit TIFF or 8-bit PNG, as the differentiable pipeline `isp.parametrized`, a pipeline of classical
algorithms, `isp.static`, or one of your own renders them, in the sensor's orientation. The exit status is 1 if any file
could not be rendered.
"""

from pathlib import Path

from absl import flags

from r2l_jax import processing
from r2l_jax.apps import render
from r2l_jax.data.files.cameras import find_camera
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime import startup

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("input", None, "Raw files and folders of them, separated by commas.", required=True)
flags.DEFINE_string("output", None, "Folder for the pictures, named as the raw files are.", required=True)
flags.DEFINE_string(
    "camera", "auto", "drone, microscopy, a JSON file with a camera's figures, or auto: those of each file itself."
)
processing.define_processing_flags(
    ["parametrized", "static"],
    "parametrized: the differentiable pipeline as it starts; static: one of classical algorithms",
)
flags.adopt_module_key_flags(processing)
flags.DEFINE_enum("format", "tiff", ["tiff", "png"], "16-bit TIFF or 8-bit PNG.")
flags.DEFINE_bool(
    "stages",
    False,
    "Also write <name>_stages.png, the image after each stage as it is: before gamma_correct it is linear and dark.",
)


def main() -> int:
    """Renders the files that the flags name, and returns the exit status."""
    inputs = [path for paths in FLAGS.input for path in paths.split(",")]
    algorithms = {flag: FLAGS[flag].value for flag in processing.STATIC_FLAGS}
    name = processing.pipeline_name(FLAGS.processing_mode, algorithms, FLAGS.pipeline)
    rendered, failed = render.render_files(
        render.find_raw_files(inputs),
        Path(FLAGS.output),
        find_camera(FLAGS.camera),
        FLAGS.format,
        FLAGS.stages,
        find_pipeline(name),
    )
    print(f"{rendered} rendered, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    startup.run(main)
