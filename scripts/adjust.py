"""Adjusts a trained model's processing to drifted data, or compares learning it with leaving it as it is.

python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05
python scripts/adjust.py --run=runs/quickstart/parametrized --mode=learn

To adapt, the head stays as it is, and a few labelled images of the drifted data tell how the processing must change.
Writes adaptation.json or learning.json, curves, pictures and TensorBoard events. The same command goes on where it was
stopped.
"""

import dataclasses

from absl import flags

from r2l_jax.drift.adjustment import adaptation, learning
from r2l_jax.drift.adjustment.adaptation import AdaptationConfig
from r2l_jax.drift.adjustment.learning import LearningConfig
from r2l_jax.processing import OWN_PIPELINE, PIPELINE_NAMES
from r2l_jax.runtime import startup

DEFAULT = AdaptationConfig(run="", intensities=(0.05,))

flags.DEFINE_string("run", None, "folder of a finished run, or to adapt of one of its folds", required=True)
flags.DEFINE_enum(
    "mode",
    "adapt",
    ["adapt", "learn"],
    "adapt: the processing, to drifted data; learn: train the run once more with its processing fixed, and compare",
)
flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where the data set is; default: where it was in training")
flags.DEFINE_string("output", DEFAULT.output, "folder for the results; default: adjustment in the run's folder")

flags.DEFINE_string("pipeline", DEFAULT.pipeline, OWN_PIPELINE)

flags.DEFINE_list("intensities", [], "adapt: to other measured intensities")
flags.DEFINE_list("exposures", [], "adapt: to exposures by the model of the sensor, as factors on the light")
flags.DEFINE_list("pipelines", [], f"adapt: other pipelines, at the camera's figures, to the head: {PIPELINE_NAMES}")
flags.DEFINE_list("cameras", [], "adapt: to what other cameras take of the scenes: drone, microscopy, JSON files")
flags.DEFINE_string("drifted_data_dir", None, "adapt: to other data of the same classes, such as another Folder")
flags.DEFINE_string("drifted_camera", None, "for --drifted_data_dir: its camera, as train.py's --camera")
flags.DEFINE_integer("labelled", DEFAULT.labelled, "adapt: how many images to adapt by")
flags.DEFINE_list(
    "parameters",
    list(DEFAULT.parameters),
    "adapt: which parameters, or all; default: all that are tuned by hand (isp.Parameter)",
)
flags.DEFINE_integer(
    "starts", DEFAULT.starts, f"adapt: exposures to search from, the first of {adaptation.STOPS} stops"
)
flags.DEFINE_integer("steps", DEFAULT.steps, "adapt: of each search")
flags.DEFINE_float(
    "lr", DEFAULT.lr, "adapt: about how far a parameter moves in a step, as a fraction of its natural range"
)
flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "adapt: samples at once, and in a step of one search")
flags.DEFINE_integer("track_n_images", DEFAULT.track_n_images, "adapt: how many samples the pictures show")
flags.DEFINE_integer("seed", DEFAULT.seed, "adapt: of the labelled images, the batches and the noise")

flags.DEFINE_float("target_score", LearningConfig(run="").target_score, "learn: the score whose time is told")


def main() -> None:
    """Adapts or compares as the flags say."""
    mode = flags.FLAGS.mode
    configs = {"adapt": AdaptationConfig, "learn": LearningConfig}
    names = {key: {field.name for field in dataclasses.fields(config)} for key, config in configs.items()}
    startup.refuse_flags(sorted(set().union(*names.values()) - names[mode]), f"with --mode={mode}")
    values = {name: flags.FLAGS[name].value for name in names[mode]}
    if mode == "learn":
        learning.run(LearningConfig(**values))
        return
    for name in ("intensities", "exposures"):
        values[name] = startup.numbers(name, float)
    for name in ("pipelines", "cameras", "parameters"):
        values[name] = tuple(values[name])
    adaptation.run(AdaptationConfig(**values))


if __name__ == "__main__":
    startup.run(main)
