"""Searches for the processing that breaks a trained model: which parameters, how far they move, what it costs.

python scripts/forensics.py --run=runs/quickstart/parametrized --adv_track_differences

The head stays as it is, and so do all statistics. Every group of parameters is searched from several starts and under
several weights of staying near the default rendering, all at once. Writes forensics.json, curves, pictures and
TensorBoard events. Folds that are finished are not searched again.
"""

import dataclasses

from absl import flags

from r2l_jax import startup
from r2l_jax.drift import forensics
from r2l_jax.drift.search import AUX_LOSSES
from r2l_jax.errors import InputError

DEFAULT = forensics.ForensicsConfig(run="")

flags.DEFINE_string("run", None, "folder of a finished run, or of one of its folds", required=True)
flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where the data set is; default: where it was in training")
flags.DEFINE_string("output", DEFAULT.output, "folder for the results; default: forensics in the run's folder")
flags.DEFINE_list("adv_parameters", None, "groups to search: all, or names of parameters; default: all and each alone")
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
flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "samples in a step of one search")
flags.DEFINE_integer("samples", DEFAULT.samples, "of the training samples, how many batches are drawn from at most")
flags.DEFINE_integer("track_n_images", DEFAULT.track_n_images, "how many samples the pictures show")
flags.DEFINE_integer("seed", DEFAULT.seed, "of samples, starts and batches")


def main() -> None:
    """Searches as the flags say."""
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(forensics.ForensicsConfig)}
    try:
        values["adv_aux_weight"] = tuple(map(float, values["adv_aux_weight"]))
    except ValueError:
        raise InputError(f"--adv_aux_weight must be numbers, got {','.join(values['adv_aux_weight'])}") from None
    values["adv_parameters"] = tuple(values["adv_parameters"] or ()) or None
    forensics.run(forensics.ForensicsConfig(**values))


if __name__ == "__main__":
    startup.run(main)
