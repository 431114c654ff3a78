"""Finds the processing that a trained model is sensitive to, tolerates, and fails under.

python scripts/forensics.py --run=runs/quickstart/parametrized --adv_track_differences

The head and all batch statistics stay unchanged. There are three analyses, each with tables and plots: `sensitivity`,
the gradient of the task loss for every parameter and every stage; `tolerances`, how far each parameter may move;
`worst_case`, a search for the processing that breaks the model. For a group of seeds, each member is analyzed, and
medians and ranges over the members are shown. Repeat the command to resume.
"""

from r2l_jax.drift.forensics.config import ForensicsConfig


def main(config: ForensicsConfig) -> None:
    """Analyzes the run that the flags name."""
    from r2l_jax.drift.forensics import forensics

    forensics.run(config)
