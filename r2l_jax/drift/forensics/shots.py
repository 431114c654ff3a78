"""Worst cases by facts of the shots: whose samples does the worst processing of each group break?"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2l_jax.drift import results, shot_groups
from r2l_jax.drift.analysis import Analysis, FoldAnalysis
from r2l_jax.drift.figures import heat_map_of_groups
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact

DEFAULT = "default"


@dataclasses.dataclass(frozen=True)
class ShotsAnalysis(FoldAnalysis):
    """Measures the samples of each group of shots by default, and under the worst processing of each search.

    Attributes:
        by: the fields of shots.
        batch_size: samples at once; the numbers do not depend on it.
        searches: the analysis that has searched for the worst cases; None measures only the default.
    """

    by: Sequence[str]
    batch_size: int
    searches: WorstCaseAnalysis | None
    name = "shots"

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that the results depend on, including the flags of the searches."""
        return {"by": self.by, **(self.searches.flags if self.searches else {})}

    def check_fold(self, fold: Artifact) -> None:
        """Raises the InputErrors of `shot_groups.groups`."""
        shot_groups.groups(fold.dataset, fold.measured_indices, self.by)

    def drawn(self, fold: Artifact) -> Sequence[int] | np.ndarray:
        """Returns the training samples that the searches draw from."""
        return self.searches.drawn(fold) if self.searches else ()

    def analyze(self, fold: Artifact, done: Mapping[str, Any]) -> Analysis:
        """Measures the groups. The content is a `results.Shots`, with a column for the worst case of each search."""
        indices, task = fold.measured_indices, fold.task
        model = self.searches.searched(fold) if self.searches else fold.model
        frozen, worst = Frozen(model, task), {}
        if self.searches:
            found = results.converted(done["worst_case"], results.WorstCases, pathlib.Path("worst_case.json"))
            worst = results.worst(found.rows)
        processings = [
            {name: value.astype(np.float32) for name, value in row.parameters.items()} for row in worst.values()
        ]
        measured = Measurer(frozen).measure_samples(
            [frozen.default, *processings], fold.dataset, indices, self.batch_size, self.name
        )
        place = {index: number for number, index in enumerate(indices.tolist())}
        fields = {}
        for field, samples in shot_groups.groups(fold.dataset, indices, self.by).items():
            chosen = [[place[index] for index in of_value.tolist()] for of_value in samples.values()]
            fields[field] = results.ShotGroups(
                rows=list(samples),
                samples=[len(places) for places in chosen],
                columns=[DEFAULT, *worst],
                scores=[[float(task.score_of(one.confusion[places].sum(0))) for one in measured] for places in chosen],
            )
        figures = {
            f"by_{field}": heat_map_of_groups(f"worst cases by {field}", groups, groups.scores, task.score)
            for field, groups in fields.items()
        }
        return Analysis(results.plain(results.Shots(task.score, fields)), _tables(fields), figures)


def _tables(fields: Mapping[str, results.ShotGroups]) -> str:
    tables = []
    for field, groups in fields.items():
        rows = [[field.replace("_", " "), "samples", *groups.columns]]
        for value, samples, scores in zip(groups.rows, groups.samples, groups.scores, strict=True):
            rows.append([value, str(samples), *(f"{score:.4f}" for score in scores)])
        tables.append(table(rows))
    return "\n\n".join(tables)
