"""Finds out how a trained model depends on its processing: what it is sensitive to, what it tolerates, what breaks it.

python scripts/forensics.py --run=runs/quickstart/parametrized --adv_track_differences
python scripts/forensics.py --run=runs/quickstart/parametrized --check=IMG_0001.dng

The head stays as it is, and so do all statistics. Three analyses, each with numbers in JSON, pictures and TensorBoard
events: `sensitivity`, the task loss's gradient for every parameter and every stage; `tolerances`, how far each
parameter may move; `worst_case`, a search for the processing that breaks the model. The same command goes on where it
was stopped. With --check the exit status is 0 if a camera's figures are within what the model tolerates, and 2 if not.
"""

import dataclasses

from absl import flags

from r2l_jax.config import AUX_LOSSES
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ANALYSES, SETTINGS, ForensicsConfig
from r2l_jax.processing import OWN_PIPELINE
from r2l_jax.runtime import startup

DEFAULT = ForensicsConfig(run="")
NOT_TOLERATED = 2

flags.DEFINE_string("run", None, "folder of a finished run, or of one of its folds", required=True)
flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where the data set is; default: where it was in training")
flags.DEFINE_string("output", DEFAULT.output, "folder for the results; default: forensics in the run's folder")
flags.DEFINE_string("pipeline", DEFAULT.pipeline, OWN_PIPELINE)
flags.DEFINE_list("analyses", list(DEFAULT.analyses), f"which to do, of {', '.join(ANALYSES)}")
flags.DEFINE_string(
    "check", DEFAULT.check, "only check a camera by the tolerances: a raw file, a JSON file, drone or microscopy"
)

flags.DEFINE_float("tolerance", DEFAULT.tolerance, "points (hundredths) of the score that a parameter may cost")
flags.DEFINE_list("map", list(DEFAULT.map), "two parameters whose tolerance to map together")

flags.DEFINE_list(
    "adv_parameters",
    list(DEFAULT.adv_parameters),
    "groups to search: all, or parameters; default: all, and each alone that is tuned by hand",
)
flags.DEFINE_enum("adv_aux_loss", DEFAULT.adv_aux_loss, AUX_LOSSES, "how the distance to the default is measured")
flags.DEFINE_list(
    "adv_aux_weight",
    [f"{weight:g}" for weight in DEFAULT.adv_aux_weight],
    "what that distance costs; several are tried",
)
flags.DEFINE_boolean("adv_noise_layer", DEFAULT.adv_noise_layer, "also search over an image that is added at the end")
flags.DEFINE_boolean(
    "adv_track_differences", DEFAULT.adv_track_differences, "write pictures of default, worst case and difference"
)
flags.DEFINE_integer("starts", DEFAULT.starts, "of each group and weight: the default, and others at random around it")
flags.DEFINE_integer("steps", DEFAULT.steps, "of each search")
flags.DEFINE_float("lr", DEFAULT.lr, "about how far a parameter moves in a step, as a fraction of its natural range")
flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "samples at once, and in a step of one search")
flags.DEFINE_integer("samples", DEFAULT.samples, "of the training samples, how many searches draw from at most")
flags.DEFINE_integer("track_n_images", DEFAULT.track_n_images, "how many samples the pictures show")
flags.DEFINE_integer("seed", DEFAULT.seed, "of samples, starts and batches")


def _refuse_flags_without_effect(config: ForensicsConfig) -> None:
    if config.check:
        asked, where = ("tolerances",), "in --check"
        startup.refuse_flags(["analyses"], where)
    else:
        asked, where = config.analyses, f"in {', '.join(config.analyses)}"
    used = {"batch_size"}.union(*(SETTINGS[name] for name in asked))
    startup.refuse_flags(sorted(set().union(*SETTINGS.values()) - used), where)
    if not config.adv_track_differences:
        startup.refuse_flags(["track_n_images"], "without --adv_track_differences")


def main() -> int:
    """Analyses or checks as the flags say, and returns the exit status."""
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(ForensicsConfig)}
    values["adv_aux_weight"] = startup.numbers("adv_aux_weight", float)
    for name in ("analyses", "map", "adv_parameters"):
        values[name] = tuple(values[name])
    config = ForensicsConfig(**values)
    _refuse_flags_without_effect(config)
    if config.check:
        return 0 if forensics.check(config) else NOT_TOLERATED
    forensics.run(config)
    return 0


if __name__ == "__main__":
    startup.run(main)
