"""The outcomes of a run or of a group of seeds in all cases, and the drops that follow from them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from r2l_jax.drift import cases as known_cases
from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN, GROUPS, Case
from r2l_jax.drift.measure import ENSEMBLE, Outcomes, by_member, joined_samples, over_folds
from r2l_jax.model.scores import Score
from r2l_jax.names import About
from r2l_jax.results.result import Interval
from r2l_jax.training.model_io import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A run alone, or a group of seeds, measured in cases. Outcomes are arrays `(M, S)`, see `drift.statistics`.

    Attributes:
        label: its name in results.
        fold: a fold of its first member.
        members: by the name of each run, the names of its folds with their outcomes.
        cases: the cases; the runs' clean images come first.
        about: the subject of intervals.
    """

    label: str
    fold: Trained
    members: Mapping[str, Sequence[tuple[str, Outcomes]]]
    cases: Sequence[Case]
    about: About

    @classmethod
    def of(
        cls, label: str, fold: Trained, cases: Sequence[Case], blocks: Sequence[Outcomes], wanted: str | None = None
    ) -> "tuple[Measured, Measured | None]":
        """Sorts the outcomes of several sets of samples by run, and returns the runs and their ensemble, if any.

        By default, intervals are about the training recipe if there are several members, and else about the model.
        """
        runs = by_member(blocks)
        together = runs.pop(ENSEMBLE, None)
        named = {f"{label}/{run}" if run else label: folds for run, folds in runs.items()}
        name = f"{label} (ensemble)"
        about = "recipe" if wanted == "recipe" or (wanted is None and len(named) > 1) else "model"
        found = cls(label, fold, named, cases, about)
        return found, cls(name, fold, {name: together}, cases, "model") if together else None

    def source(self, case: Case) -> str:
        """Returns the name of a case among the outcomes: a case that equals the clean images shares theirs."""
        return CLEAN.name if known_cases.equals_clean(case, self.fold.config) else case.name

    def outcomes(self, case: Case = CLEAN, score: Score | None = None) -> np.ndarray:
        """Returns the outcomes in a case, of the runs' or another score, with the folds of each run joined."""
        return np.stack([over_folds(folds, self.source(case), score) for folds in self.members.values()])

    @functools.cached_property
    def clean(self) -> np.ndarray:
        """The outcomes on the clean images."""
        return self.outcomes()

    @functools.cached_property
    def drops(self) -> dict[str, np.ndarray]:
        """The drops in each case whose images the runs were not trained on."""
        return {case.name: self.clean - self.outcomes(case) for case in self.cases if not self.is_clean(case)}

    @functools.cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """The mean drops in groups of cases, see `groups_of`."""
        changed = [case for case in self.cases if case.name in self.drops]
        return {
            name: np.mean([self.drops[case] for case in of_group], 0) for name, of_group in groups_of(changed).items()
        }

    def is_clean(self, case: Case) -> bool:
        """Tells whether the runs were trained on images like those of a case."""
        return known_cases.is_clean(case, self.fold.config)

    def score(self, *cases: Case) -> float:
        """Returns the mean score of all members in some cases."""
        return float(np.mean([self.outcomes(case).mean() for case in cases]))

    @property
    def score_name(self) -> str:
        """The name of the score."""
        return self.fold.task.score.name

    @property
    def samples(self) -> set[tuple[tuple[int, ...], ...]]:
        """The samples of the members' folds; a single element if all members have the same."""
        return {tuple(tuple(found.samples.tolist()) for _, found in folds) for folds in self.members.values()}

    @functools.cached_property
    def count(self) -> int:
        """The number of samples of a member."""
        return len(joined_samples(outcomes for _, outcomes in next(iter(self.members.values()))))

    def intervals(self, drops: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        """Estimates several drops."""
        bounds = self.fold.task.score.drop_bounds
        return {name: statistics.bounded(drop, self.about, bounds) for name, drop in drops.items()}

    @property
    def drawn(self) -> str:
        """The samples of all intervals, such as "480 test samples" or "272 test samples of 8 groups"."""
        return statistics.drawn(self.count, self.clean.shape[1], self.fold.measured)

    @property
    def stated(self) -> str:
        """What intervals are about, in words."""
        return statistics.stated(self.about, len(self.members), self.drawn)


def groups_of(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Groups the names of cases: by kind of drift, by group of corruptions or sensor drifts, and by each of these.

    `identity`, which changes nothing, is in no group.
    """
    groups: dict[str, list[str]] = {}
    for level in range(3):
        for case in cases:
            kind = case.kind
            names = [case.group] if kind is None else [case.group, GROUPS[kind], kind]
            if kind != "identity" and level < len(names):
                groups.setdefault(names[level] or "", []).append(case.name)
    return groups
