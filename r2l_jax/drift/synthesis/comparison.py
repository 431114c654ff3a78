"""Estimates drops of groups of trainings with intervals, and compares groups, from the outcomes of the same samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from r2l_jax.drift import statistics
from r2l_jax.drift.cases import GROUPS, OWN, Case
from r2l_jax.drift.outcomes import Outcomes, joined
from r2l_jax.drift.results import Compared, Differences, Drops, Estimate
from r2l_jax.names import DRIFTS, About
from r2l_jax.runtime.errors import InputError

# The wanted distance of the ends of an interval from the estimate.
HALF_WIDTH = 0.02


class Trainings:
    """A group of trainings, or a run alone, with the drops of each of its models on each sample.

    Args:
        members: the outcomes of each run by the numbers of its folds.
        own: the cases that equal the images on which the runs were trained.
        cases: the cases; the runs' own images come first.

    Attributes:
        members: the names of the runs.
        own: the outcomes on the own images `(M, S)`, with the folds of each run joined (see `outcomes.joined`).
        groups: the mean drops in groups of cases `(M, S)`.
        cases: the drops in each case that changes the images `(M, S)`.
        samples: the samples of each run, which are the same for most groups.

    Raises:
        InputError: the runs were measured on different numbers of samples.
    """

    def __init__(self, members: Mapping[str, Mapping[int, Outcomes]], own: Sequence[str], cases: Sequence[Case]):
        self.members = list(members)
        self.samples = {
            tuple((number, *fold.samples.tolist()) for number, fold in folds.items()) for folds in members.values()
        }

        def outcomes(name: str) -> np.ndarray:
            each = [joined(list(folds.values()), name) for folds in members.values()]
            counts = [len(of_member) for of_member in each]
            if len(set(counts)) > 1:
                raise InputError(f"members must have as many samples each, got {', '.join(map(str, counts))}")
            return np.stack(each)

        self.own = outcomes(OWN.name)
        changed = [case for case in cases if case.group != OWN.group and case.name not in own]
        self.cases = {case.name: self.own - outcomes(case.name) for case in changed}
        self.groups = {
            group: np.mean([self.cases[name] for name in names], 0) for group, names in groups_of(changed).items()
        }

    def about(self, wanted: About | None) -> About:
        """Returns whether intervals are about the recipe, by default for several members, or about the models."""
        return wanted or ("recipe" if len(self.members) > 1 else "model")


def groups_of(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Groups the names of cases: by kinds of drift; by groups of corruptions and of sensor drifts; by these.

    `identity`, which changes nothing, is of no group.
    """
    groups: dict[str, list[str]] = {}
    for level in range(3):
        for case in cases:
            kind = case.kind
            names = [case.group] if kind is None else [case.group, GROUPS[kind], kind]
            if kind != "identity" and level < len(names):
                groups.setdefault(names[level] or "", []).append(case.name)
    return groups


def drops(trainings: Trainings, measured: str, wanted: About | None, as_published: bool = False) -> Drops:
    """Estimates the drops of a group of trainings.

    Args:
        trainings: the group.
        measured: which samples or scenes intervals count, such as "test samples".
        wanted: what intervals are about; None for the default.
        as_published: whether to give the log ratio of the drops.

    Raises:
        InputError: one training, about its recipe.
    """
    about, several = trainings.about(wanted), len(trainings.members) > 1
    kinds = {kind: trainings.groups[kind] for kind in DRIFTS if kind in trainings.groups}
    changed = [of_case for name, of_case in trainings.cases.items() if not name.startswith("identity.")]
    ratio = None
    if as_published and {"pipelines", "corruptions"} <= kinds.keys():
        ratio = statistics.log_ratio(kinds["corruptions"], kinds["pipelines"], about)
    return Drops(
        members=trainings.members,
        about=about,
        samples=trainings.own.shape[1],
        measured=measured,
        score=Estimate.of(statistics.interval(trainings.own, about), 0.0),
        groups=_estimates(trainings.groups, about),
        cases=_estimates(trainings.cases, about),
        shares=statistics.shares(np.stack(changed))._asdict() if several and changed else None,
        members_needed={
            kind: statistics.members_needed(of_kind, HALF_WIDTH) for kind, of_kind in kinds.items() if several
        },
        log_ratio=ratio and Estimate(*map(float, ratio)),
    )


def _estimates(rows: Mapping[str, np.ndarray], about: About) -> dict[str, Estimate]:
    """Estimates several drops together."""
    if not rows:
        return {}
    found = statistics.interval(np.stack(list(rows.values())), about)
    numbers = np.stack(found, -1)
    return {name: Estimate.of(statistics.Interval(*each), -1.0) for name, each in zip(rows, numbers, strict=True)}


def differences(groups: Mapping[str, Trainings], wanted: About | None) -> list[Differences]:
    """Compares the first group of trainings with each other one that was measured on the same samples.

    A run alone cannot tell about its recipe: a difference with one is about the models.
    """
    (name, first), *others = groups.items()
    return [
        _difference(name, first, other, second, wanted)
        for other, second in others
        if len(first.samples) == 1 and first.samples == second.samples
    ]


def _difference(name: str, first: Trainings, other: str, second: Trainings, wanted: About | None) -> Differences:
    about = wanted or ("recipe" if min(len(first.members), len(second.members)) > 1 else "model")

    def compare(of_first: Mapping[str, np.ndarray], of_second: Mapping[str, np.ndarray]) -> dict[str, Compared]:
        shared = [row for row in of_first if row in of_second]
        if not shared:
            return {}
        stacked = [np.stack([rows[row] for row in shared]) for rows in (of_first, of_second)]
        numbers = np.stack(statistics.difference(stacked[0], stacked[1], about), -1)
        return {row: Compared(*each) for row, each in zip(shared, numbers.tolist(), strict=True)}

    return Differences(name, other, about, compare(first.groups, second.groups), compare(first.cases, second.cases))
