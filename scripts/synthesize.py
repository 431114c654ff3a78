"""Writes a raw data set as other pipelines, intensities, exposures and corruptions make it, for any program to read.

python scripts/synthesize.py --output=drifted --pipelines=parametrized,menon2007.unsharp_masking.median_denoising
python scripts/synthesize.py --output=drifted_cells --dataset=Microscopy --data_dir=data --intensities=0.05,1 \
  --corruptions=gaussian_noise,contrast --severities=1,3,5 --format=png

Every pipeline meets every intensity and exposure, and each of these images is written as it is and under every
corruption: <output>/<pipeline>/<intensity or exposure>/<corruption>/ is one set, with a sub-folder a class, or images
and masks. A set's manifest.csv has the origin and the SHA-256 of each picture, <output>/manifest.json what all have in
common. The same command again goes on where it was stopped; others add their sets.
"""

import dataclasses

from absl import flags

from r2l_jax.data.sets.datasets import DATASETS, SYNTHETIC_IMAGES, SYNTHETIC_SIZE
from r2l_jax.data.sets.synthetic import INTENSITIES
from r2l_jax.drift.corruptions import CORRUPTIONS, SEVERITIES
from r2l_jax.drift.synthesis.picture_sets import FORMATS
from r2l_jax.drift.synthesis.synthesis import SynthesisConfig, run
from r2l_jax.processing import PIPELINE_NAMES
from r2l_jax.runtime import startup

DEFAULT = SynthesisConfig(output="")

flags.DEFINE_string("output", None, "folder for the sets", required=True)
flags.DEFINE_string("dataset", DEFAULT.dataset, f"one of {', '.join(DATASETS)}")
flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where the data set is, or is written; default: a cache folder")
flags.DEFINE_boolean("download", DEFAULT.download, "get a published data set from Zenodo if it is not there")
flags.DEFINE_string("camera", DEFAULT.camera, "for Folder: drone, microscopy, a JSON file, or auto (the files' own)")
flags.DEFINE_integer(
    "tile_size",
    DEFAULT.tile_size,
    "for Folder: side of the tiles cut of frames, or of the middle taken of files to classify; default: 256, or the "
    "shortest side if that is less",
)
flags.DEFINE_integer(
    "synthetic_images", DEFAULT.synthetic_images, f"scenes in the synthetic data set; default: {SYNTHETIC_IMAGES}"
)
flags.DEFINE_integer(
    "synthetic_size", DEFAULT.synthetic_size, f"their height and width in pixels; default: {SYNTHETIC_SIZE}"
)
flags.DEFINE_list("pipelines", list(DEFAULT.pipelines), PIPELINE_NAMES)
flags.DEFINE_string("pipeline", None, "in place of --pipelines: a single one")
flags.DEFINE_list(
    "intensities",
    None,
    f"measured ones, of {', '.join(map('{:g}'.format, INTENSITIES))}; default: 1; not for Folder, which has its own",
)
flags.DEFINE_list(
    "exposures",
    list(DEFAULT.exposures),
    "by the model of the sensor, as factors on the light of the mosaics at full intensity, or of a Folder's",
)
flags.DEFINE_list("corruptions", list(DEFAULT.corruptions), f"besides none, of {', '.join(CORRUPTIONS)}")
flags.DEFINE_list(
    "severities",
    [str(severity) for severity in DEFAULT.severities],
    f"of the corruptions, of {', '.join(map(str, SEVERITIES))}",
)
flags.DEFINE_enum("format", DEFAULT.format, list(FORMATS), "16-bit TIFF or 8-bit PNG")
flags.DEFINE_integer("seed", DEFAULT.seed, "of the noise of exposures and corruptions")


def main() -> None:
    """Writes what the flags say."""
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(SynthesisConfig)}
    for name in ("pipelines", "corruptions"):
        values[name] = tuple(values[name])
    if flags.FLAGS.pipeline is not None:
        startup.refuse_flags(["pipelines"], "with --pipeline")
        values["pipelines"] = (flags.FLAGS.pipeline,)
    for name, kind in (("intensities", float), ("exposures", float), ("severities", int)):
        values[name] = None if values[name] is None else startup.numbers(name, kind)
    config = SynthesisConfig(**values)
    if not config.corruptions:
        startup.refuse_flags(["severities"], "without --corruptions")
    run(config)


if __name__ == "__main__":
    startup.run(main)
