"""Worst cases by shot metadata: which shots does the worst processing of each group of parameters break?"""

from collections.abc import Sequence

import numpy as np

from r2l_jax.drift import shot_groups
from r2l_jax.drift.forensics.worst_case import DEFAULT
from r2l_jax.drift.measure import CLEAN, Outcomes
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import SCORE, Column, Result, Table
from r2l_jax.training.artifact import Artifact


def analyze(fold: Artifact, by: Sequence[str], worst: Result) -> Result:
    """Scores the samples of each group of shots, under the default and in the worst case of each parameter group.

    Args:
        fold: the trained model.
        by: the fields of shots.
        worst: the worst cases of the same samples, with their outcomes.
    """
    outcomes, score = Outcomes.unpacked(worst.outcomes, fold.task.score), fold.task.score.name
    columns, tables, figures = {DEFAULT: DEFAULT, **worst.metadata["worst"]}, {}, {}
    for field, groups in shot_groups.groups(fold.dataset, fold.measured_indices, by).items():
        title, taken = field.replace("_", " "), {name: np.isin(outcomes.samples, each) for name, each in groups.items()}
        scores = [[outcomes.score(model, CLEAN.name, each) for model in columns.values()] for each in taken.values()]
        rows = [[name, len(groups[name]), *each] for name, each in zip(groups, scores, strict=True)]
        headings = [Column(title), Column("samples"), *(Column(name, format=SCORE) for name in columns)]
        tables[field] = Table(f"{score} by {title}, in the worst case of each group", headings, rows)
        figures[field] = heat_map(scores, [f"{row[0]} ({row[1]})" for row in rows], list(columns), label=score)
    return Result({}, tables, figures)
