"""Tests trained models on data as other pipelines, exposures and corruptions make it.

python scripts/evaluate.py --run=runs/quickstart/parametrized
python scripts/evaluate.py --run=runs/synthesis/bilinear,runs/synthesis/menon --against=pipelines,intensities

Writes evaluation.json, evaluation.csv, heat maps and TensorBoard events. The same command again goes on where it was
stopped.
"""

import dataclasses

from absl import flags

from r2l_jax.drift import cases as variants
from r2l_jax.drift.corruptions import CORRUPTIONS, SEVERITIES
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.processing import OWN_PIPELINE, PIPELINE_NAMES
from r2l_jax.runtime import startup


def _joined(values) -> list[str]:
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]


DEFAULT = evaluation.EvaluationConfig(run=("",))

flags.DEFINE_multi_string(
    "run", None, "folders of finished runs, or of their folds, separated by commas", required=True
)
flags.DEFINE_list("against", list(DEFAULT.against), f"what to test against, of {', '.join(variants.GROUPS)}")
flags.DEFINE_list(
    "pipelines", list(DEFAULT.pipelines), f"other processing: {PIPELINE_NAMES}; default: the twelve published ones"
)
flags.DEFINE_list("intensities", _joined(DEFAULT.intensities), "other measured intensities")
flags.DEFINE_list(
    "exposures",
    _joined(DEFAULT.exposures),
    "exposures by the model of the sensor, as factors on the light; any raw data",
)
flags.DEFINE_list("corruptions", list(DEFAULT.corruptions), f"of processed images, of {', '.join(CORRUPTIONS)}")
flags.DEFINE_list(
    "severities", _joined(DEFAULT.severities), f"of the corruptions, of {', '.join(map(str, SEVERITIES))}"
)
flags.DEFINE_string("data_dir", DEFAULT.data_dir, "where the data set is; default: where it was in training")
flags.DEFINE_string(
    "output",
    DEFAULT.output,
    "folder for the results; default: evaluation in the run's folder, or in the innermost that all runs are in",
)
flags.DEFINE_list("pipeline", list(DEFAULT.pipeline), OWN_PIPELINE)
flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "samples at once, over all devices; results do not depend on it")
flags.DEFINE_integer("seed", DEFAULT.seed, "of the noise of exposures and corruptions")


def _refuse_flags_without_effect(config: evaluation.EvaluationConfig) -> None:
    for group in variants.GROUPS:
        if group not in config.against:
            names = [group, "severities"] if group == "corruptions" else [group]
            startup.refuse_flags(names, f"without {group} in --against")
    if not {"exposures", "corruptions"}.intersection(config.against):
        startup.refuse_flags(["seed"], "without exposures or corruptions in --against")


def main() -> None:
    """Evaluates as the flags say."""
    given = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(evaluation.EvaluationConfig)}
    lists = {name: tuple(given[name]) for name in ("against", "pipelines", "corruptions", "pipeline")}
    lists["run"] = tuple(uri for uris in given["run"] for uri in uris.split(","))
    numbers = {"intensities": float, "exposures": float, "severities": int}
    lists |= {flag: startup.numbers(flag, kind) for flag, kind in numbers.items()}
    config = evaluation.EvaluationConfig(**given | lists)
    _refuse_flags_without_effect(config)
    evaluation.run(config)


if __name__ == "__main__":
    startup.run(main)
