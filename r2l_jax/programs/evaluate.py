"""Tests trained models under other pipelines, intensities, exposures and common corruptions.

python scripts/evaluate.py --run=runs/quickstart/parametrized
python scripts/evaluate.py --run=runs/synthesis/bilinear,runs/synthesis/menon --against=pipelines,intensities
python scripts/evaluate.py --run=runs/quickstart/parametrized --against=corruptions --sheet=corruptions
python scripts/evaluate.py --run=runs/quickstart/parametrized --envelope=default --tolerance=3

Takes single runs and groups of seeds. Writes the outcome of each sample, tables and figures for each group of cases,
and a summary of the drops. Repeat the command to resume.
"""

from r2l_jax.drift.synthesis.config import EvaluationConfig


def main(config: EvaluationConfig) -> None:
    """Evaluates the runs that the flags name."""
    from r2l_jax.drift.synthesis import envelope, evaluation, sheets

    (envelope if config.limits.envelope else sheets if config.sheet else evaluation).run(config)
