"""The matrices of an evaluation: scores of runs in cases, and of corruptions at severities."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2l_jax.drift.cases import OWN, Case


def make_matrices(summaries: Mapping[str, dict[str, Any]], cases: Sequence[Case], score: str) -> dict[str, Any]:
    """Makes the matrices of an evaluation, with the standard deviations over the folds where rows are runs.

    Args:
        summaries: the summaries of the runs, by name: `own`, `tests` and `folds` as in `summary.summarize`.
        cases: the cases.
        score: the name of the score.

    Returns:
        For each group of cases but corruptions, the scores of all runs (rows) in all cases (columns). `corruptions` has
        the mean over the runs by corruption (rows) and severity (columns). `corruptions_of_runs` has the scores of all
        runs by corruption, each the mean over the `severities` that it names.
    """
    matrices = {}
    for group in ("pipelines", "intensities", "exposures"):
        columns = [case.name for case in cases if case.group == group]
        if columns:
            matrices[group] = _scores_of_runs(summaries, columns, score)
    corruptions = {case.corruption: case.name for case in cases if case.corruption}
    if corruptions:
        matrices["corruptions"] = _scores_by_severity(summaries, corruptions, score)
        matrices["corruptions_of_runs"] = _scores_by_corruption(summaries, corruptions, score)
    return matrices


def _scores_of_runs(summaries: Mapping[str, dict[str, Any]], columns: list[str], score: str) -> dict[str, Any]:
    """Makes the matrix of all runs (rows) in the cases of a group (columns), with each run's own images marked."""
    own = {label: next((name for name in columns if name in run["own"]), None) for label, run in summaries.items()}
    if None in own.values():
        # Runs that were trained on images of another kind have them in a column of their own.
        columns = [OWN.name, *columns]
    diagonal = {label: name or OWN.name for label, name in own.items()}
    # This order of the rows puts the own images near the diagonal.
    rows = sorted(summaries, key=lambda label: columns.index(diagonal[label]))
    statistics = {
        statistic: [[summaries[label]["tests"][name][score][statistic] for name in columns] for label in rows]
        for statistic in ("mean", "std")
    }
    return {"rows": rows, "columns": columns, "own": [diagonal[label] for label in rows], **statistics}


def _scores_by_severity(
    summaries: Mapping[str, dict[str, Any]], corruptions: Mapping[tuple[str, int], str], score: str
) -> dict[str, Any]:
    """Makes the matrix of corruptions (rows) and severities (columns), averaged over the runs.

    Args:
        summaries: the summaries of the runs.
        corruptions: the name of the case of each corruption and severity.
        score: the name of the score.
    """
    names, severities = (list(dict.fromkeys(part)) for part in zip(*corruptions, strict=True))

    def mean(name: str, severity: int) -> float:
        return float(np.mean([run["tests"][corruptions[name, severity]][score]["mean"] for run in summaries.values()]))

    return {
        "rows": names,
        "columns": severities,
        "mean": [[mean(name, severity) for severity in severities] for name in names],
    }


def _scores_by_corruption(
    summaries: Mapping[str, dict[str, Any]], corruptions: Mapping[tuple[str, int], str], score: str
) -> dict[str, Any]:
    """Makes the matrix of all runs (rows) and corruptions (columns), the mean of each fold over the severities.

    Args:
        summaries: the summaries of the runs.
        corruptions: the name of the case of each corruption and severity.
        score: the name of the score.
    """
    names, severities = (list(dict.fromkeys(part)) for part in zip(*corruptions, strict=True))
    columns = {OWN.name: [OWN.name], **{name: [corruptions[name, each] for each in severities] for name in names}}
    scores = {
        label: np.array(
            [
                [np.mean([fold[case][score] for case in of_column]) for of_column in columns.values()]
                for fold in run["folds"].values()
            ]
        )
        for label, run in summaries.items()
    }
    return {
        "rows": list(scores),
        "columns": list(columns),
        "severities": severities,
        "mean": [of_run.mean(0).tolist() for of_run in scores.values()],
        "std": [of_run.std(0).tolist() for of_run in scores.values()],
    }
