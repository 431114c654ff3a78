"""Finds the processing that a trained model is sensitive to, tolerates, and fails under.

python scripts/forensics.py --run=runs/quickstart/parametrized --adv_track_differences
python scripts/forensics.py --run=runs/quickstart/parametrized --check=IMG_0001.dng

The head and all batch statistics stay unchanged. There are three analyses, each with numbers in JSON, pictures and
TensorBoard events: `sensitivity`, the gradient of the task loss for every parameter and every stage; `tolerances`, how
far each parameter may move; `worst_case`, a search for the processing that breaks the model. For a group of trainings,
each member is analyzed, and then the medians and ranges over the members are shown. Repeat the command to resume. With
--check, the exit status is 0 if the model tolerates the camera's calibration values, and 2 if not.
"""

from r2l_jax.drift.forensics.config import ForensicsConfig

NOT_TOLERATED = 2


def main(config: ForensicsConfig) -> int:
    """Analyzes or checks as the flags say, and returns the exit status."""
    from r2l_jax.drift.forensics import forensics

    if config.check:
        return 0 if forensics.check(config) else NOT_TOLERATED
    forensics.run(config)
    return 0
