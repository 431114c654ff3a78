"""Summarizes an evaluation: drops of the score, matrices of runs and cases, tables and figures."""

import collections
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.drift import statistics
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.figures import heat_map, heat_map_of_groups
from r2l_jax.drift.results import Differences, Drops, EvaluatedRun, Evaluation, Groups, Statistic
from r2l_jax.drift.statistics import points
from r2l_jax.names import CORRUPTIONS, SENSOR
from r2l_jax.runtime.tables import table

# The numbers of one model in one case, by name: `loss`, the score, the task's further metrics, `precision`, `recall`
# and `f1` of each class, and `confusion`; and as measured, the `outcomes` of the samples, see `outcomes.to_text`.
Numbers = dict[str, Any]

OUTCOMES = "outcomes"
PER_CLASS = ("precision", "recall", "f1")

# More runs or groups become the rows of a table.
_FEW = 3

# The groups of cases over which the drop of each kind of drift is averaged.
KINDS = {
    "processing": ("pipelines",),
    "acquisition": ("intensities", "exposures"),
    "sensor": ("sensor",),
    "corruption": ("corruptions",),
}


class RunResults(NamedTuple):
    """The numbers of a run by fold and case, the id of each fold's training, and facts as in `EvaluatedRun`."""

    folder: str
    processing_mode: str | None
    pipeline: str | None
    own: tuple[str, ...]
    folds: Mapping[int, Mapping[str, Numbers]]
    training: Mapping[int, str]


# The samples of a fold, and the numbers of its cases.
_Tested = tuple[np.ndarray, Mapping[str, Numbers]]


def summarize(
    runs: Mapping[str, RunResults],
    cases: Sequence[Case],
    score: str,
    groups: Mapping[tuple[str, ...], Sequence[_Tested]] = types.MappingProxyType({}),
) -> Evaluation:
    """Summarizes the numbers of runs.

    A drop is the difference between a fold's score on its own images and its score in a case. A headline holds the
    score on the own images, and the mean drop under each kind of drift. Mean drops leave out the cases on which the run
    was trained and `identity`.

    Args:
        runs: the runs, by name.
        cases: the cases; the runs' own images come first.
        score: the name of the score; higher is better.
        groups: for each run, field and value, the samples of each fold and the numbers of the cases.
    """
    summaries = {label: summarize_run(run, cases, score) for label, run in runs.items()}
    headlines = [summary.headline for summary in summaries.values()]
    return Evaluation(
        score=score,
        headline={name: _mean([headline[name] for headline in headlines]) for name in headlines[0]},
        runs=summaries,
        matrices=_matrices(summaries, cases, score),
        by=_by_groups(groups, [case.name for case in cases], score),
    )


def summarize_run(run: RunResults, cases: Sequence[Case], score: str) -> EvaluatedRun:
    """Summarizes the numbers of a run."""
    tests = {case.name: {"group": case.group, **_over_folds(run.folds, case.name, score)} for case in cases}
    changed = {
        case.name: case.group
        for case in cases
        if case.name not in run.own and not (case.corruption and case.corruption[0] == "identity")
    }
    drops = {
        f"{kind}_drop": _mean([tests[name]["drop"].mean for name, group in changed.items() if group in groups])
        for kind, groups in KINDS.items()
    }
    return EvaluatedRun(
        folder=run.folder,
        processing_mode=run.processing_mode,
        pipeline=run.pipeline,
        own=list(run.own),
        headline={OWN.name: tests[OWN.name][score].mean, **drops},
        tests=tests,
        folds={str(number): dict(numbers) for number, numbers in run.folds.items()},
        training={str(number): each for number, each in run.training.items()},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Computes the mean of the values that are not None, or None without such values."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _over_folds(folds: Mapping[int, Mapping[str, Numbers]], name: str, score: str) -> dict[str, Any]:
    """Computes the means and standard deviations over the folds of the numbers of a case."""
    here = [numbers[name] for numbers in folds.values()]
    further = here[0].keys() - {score, "loss", *PER_CLASS, "confusion"}
    return {
        score: Statistic.of([numbers[score] for numbers in here]),
        "drop": Statistic.of([numbers[OWN.name][score] - numbers[name][score] for numbers in folds.values()]),
        **{metric: Statistic.of([numbers[metric] for numbers in here]) for metric in ("loss", *sorted(further))},
        **{
            metric: {cls: Statistic.of([numbers[metric][cls] for numbers in here]) for cls in here[0][metric]}
            for metric in PER_CLASS
        },
    }


def _matrices(summaries: Mapping[str, EvaluatedRun], cases: Sequence[Case], score: str) -> dict[str, Any]:
    """Makes the matrices of an evaluation, see `summarize`."""
    matrices = {}
    for group in ("pipelines", "intensities", "exposures"):
        columns = [case.name for case in cases if case.group == group]
        if columns:
            matrices[group] = _scores_of_runs(summaries, columns, score)
    for group in ("sensor", "corruptions"):
        graded = {case.sensor or case.corruption or ("", 0): case.name for case in cases if case.group == group}
        if not graded:
            continue
        names, severities = (list(dict.fromkeys(part)) for part in zip(*graded, strict=True))
        by_name = {name: [graded[name, severity] for severity in severities] for name in names}
        matrices[group] = {
            "rows": names,
            "columns": severities,
            "mean": [
                [_mean([run.tests[case][score].mean for run in summaries.values()]) for case in by_name[name]]
                for name in names
            ],
        }
        matrices[f"{group}_of_runs"] = {
            "severities": severities,
            **_scores_by_kind(summaries, {OWN.name: [OWN.name], **by_name}, score),
        }
    return matrices


def _scores_of_runs(summaries: Mapping[str, EvaluatedRun], columns: list[str], score: str) -> dict[str, Any]:
    """Makes the matrix of all runs (rows) in the cases of a group (columns), with each run's own images marked."""
    found = {label: [name for name in columns if name in run.own] for label, run in summaries.items()}
    own = {label: names[0] if len(names) == 1 else None for label, names in found.items()}
    if None in own.values():
        # Runs that were trained on images of another kind, or on several, have them in a column of their own.
        columns = [OWN.name, *columns]
    diagonal = {label: name or OWN.name for label, name in own.items()}
    # This order of the rows puts the own images near the diagonal.
    rows = sorted(summaries, key=lambda label: columns.index(diagonal[label]))
    scores = [[summaries[label].tests[name][score] for name in columns] for label in rows]
    return {
        "rows": rows,
        "columns": columns,
        "own": [diagonal[label] for label in rows],
        "mean": [[each.mean for each in of_run] for of_run in scores],
        "std": [[each.std for each in of_run] for of_run in scores],
    }


def _scores_by_kind(
    summaries: Mapping[str, EvaluatedRun], columns: Mapping[str, Sequence[str]], score: str
) -> dict[str, Any]:
    """Makes the matrix of all runs (rows), where each column is the mean of each fold over some cases."""
    scores = {
        label: np.array(
            [
                [np.mean([fold[case][score] for case in of_column]) for of_column in columns.values()]
                for fold in run.folds.values()
            ]
        )
        for label, run in summaries.items()
    }
    return {
        "rows": list(scores),
        "columns": list(columns),
        "mean": [of_run.mean(0).tolist() for of_run in scores.values()],
        "std": [of_run.std(0).tolist() for of_run in scores.values()],
    }


def _by_groups(
    groups: Mapping[tuple[str, ...], Sequence[_Tested]], cases: Sequence[str], score: str
) -> dict[str, Groups]:
    """Summarizes the scores of groups of samples. Cases on which a run was trained are its own images."""
    runs = {run for run, _, _ in groups}
    fields: dict[str, Groups] = {}
    for (run, field, value), folds in groups.items():
        matrix = fields.setdefault(field, Groups(rows=[], samples=[], columns=list(cases), mean=[], std=[]))
        scores = np.array([[tests.get(name, tests[OWN.name])[score] for name in cases] for _, tests in folds])
        matrix.rows.append(value if len(runs) == 1 else f"{run}: {value}")
        matrix.samples.append(sum(len(indices) for indices, _ in folds))
        matrix.mean.append(scores.mean(0).tolist())
        matrix.std.append(scores.std(0).tolist())
    return fields


def make_figures(summary: Evaluation) -> dict[str, Figure]:
    """Draws a heat map of each matrix of a summary, and of the groups of samples."""
    score, several_folds, runs = summary.score, _several_folds(summary), len(summary.runs)
    titles = {
        "pipelines": "processing drift: trained (rows), tested (columns)",
        "intensities": "acquisition drift: measured intensities",
        "exposures": "acquisition drift: exposures by the sensor model",
    }
    matrices = dict(summary.matrices)
    for group, title in (("sensor", "drift of the sensor"), ("corruptions", "corruptions")):
        mean = f"; mean of {runs} runs" if runs > 1 else ""
        titles[group] = f"{title} by severity; own images {summary.headline[OWN.name]:.3f}{mean}"
        of_runs = matrices.pop(f"{group}_of_runs", None)
        if of_runs and runs > 1:
            matrices[f"{group}_of_runs"] = of_runs
            titles[f"{group}_of_runs"] = f"{title} at {_severities(of_runs['severities'])}: trained (rows)"
    figures = {
        f"by_{field}": heat_map_of_groups(f"by {field}", matrix, matrix.mean, score)
        for field, matrix in summary.by.items()
    }
    for group, matrix in matrices.items():
        columns = matrix["columns"]
        framed = [
            (row, columns.index(name))
            for row, own in enumerate(matrix.get("own", []))
            for name in dict.fromkeys([own, *summary.runs[matrix["rows"][row]].own])
            if name in columns
        ]
        figures[group] = heat_map(
            np.array(matrix["mean"]),
            matrix["rows"],
            [str(column) for column in columns],
            title=titles[group],
            label=score,
            deviations=np.array(matrix["std"]) if several_folds and "std" in matrix else None,
            framed=framed,
        )
    return figures


def _several_folds(summary: Evaluation) -> bool:
    return any(len(run.folds) > 1 for run in summary.runs.values())


def make_table(summary: Evaluation) -> str:
    """Formats differences and drops with their intervals, the scores of several runs, and groups of samples."""
    tables = [_differences_table(summary.differences)] if summary.differences else []
    tables.append(_drops_table(summary.drops, summary.score))
    if len(summary.runs) > 1:
        tables.append(_scores_table(summary))
    tables += [_group_table(field, matrix, summary.score) for field, matrix in summary.by.items()]
    return "\n\n".join([*tables, "\n".join(_remarks(summary.drops))])


def _differences_table(differences: Sequence[Differences]) -> str:
    """Formats how much more the first of the runs or groups loses than each other, and how probable that is."""
    titles = [f"{each.first} - {each.second} ({each.about})" for each in differences]
    rows = [["difference of drops, points; probability", *titles]]
    for name, title in _lines(differences).items():
        found = [_drop(each, name) for each in differences]
        rows.append([title, *("-" if each is None else f"{each.points}; {each.probability:.0%}" for each in found)])
    return table(_upright(rows))


def _drops_table(drops: Mapping[str, Drops], score: str) -> str:
    """Formats the drops; for a single run or group also the scores."""
    lines, found = _lines(list(drops.values())), list(drops.values())
    own = [each.score.points for each in found]
    rows = [["drop, points", *drops], [f"(own {score})", *own]]
    for name, title in lines.items():
        cells = [_drop(each, name) for each in found]
        rows.append([title, *("-" if each is None else each.points for each in cells)])
    if len(found) > 1:
        return table(_upright(rows))
    scores = [found[0].score.estimate - drop.estimate for name in lines if (drop := _drop(found[0], name))]
    rows[:2] = [["test", "drop, points"], [OWN.name, "-"]]
    return table([[*row, cell] for row, cell in zip(rows, [score, *own, *map(points, scores)], strict=True)])


def _drop(found: Drops | Differences, name: str) -> Any:
    """Returns the estimate of a group of cases or of a case, if there is one."""
    return found.groups.get(name) or found.cases.get(name)


def _lines(found: Sequence[Drops | Differences]) -> dict[str, str]:
    """Returns the titles of groups of cases by name; for few runs, also the titles of single cases.

    A corruption or drift of the sensor of several severities has only the mean over them.
    """
    groups = dict.fromkeys(name for each in found for name in each.groups)
    lines = {name: name for name in groups if name not in (*CORRUPTIONS, *SENSOR)}
    if len(found) > _FEW:
        return lines
    cases = dict.fromkeys(name for each in found for name in each.cases)
    severities = collections.Counter(name.rpartition(".")[0] for name in cases)
    for name in cases:
        kind = name.rpartition(".")[0]
        if kind in groups and severities[kind] > 1:
            lines[kind] = f"{kind} (mean of {severities[kind]} severities)"
        elif kind != "identity":
            lines[name] = name
    return lines


def _upright(rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Turns a table of many columns, which would not fit on a line."""
    return rows if len(rows[0]) <= 1 + _FEW else list(zip(*rows, strict=True))


def _scores_table(summary: Evaluation) -> str:
    """Formats the score of each run and ensemble and its mean drops, and the mean of the runs.

    Kinds of drift without a case have no column.
    """
    kinds = [kind for kind in KINDS if summary.headline[f"{kind}_drop"] is not None]
    rows = [["run", f"own {summary.score}", *(f"{kind} drop" for kind in kinds)]]
    ensembles = {f"{label} (ensemble)": each.ensemble for label, each in summary.drops.items() if each.ensemble}
    headlines = {label: run.headline for label, run in {**summary.runs, **ensembles}.items()}
    for label, headline in {**headlines, "mean of the runs": summary.headline}.items():
        numbers = [headline[name] for name in (OWN.name, *(f"{kind}_drop" for kind in kinds))]
        rows.append([label, *("-" if number is None else points(number) for number in numbers)])
    return table(rows)


def _group_table(field: str, matrix: Groups, score: str) -> str:
    """Formats the scores of the groups of a field: on the own images, and the mean drop of the other cases."""
    rows = [[field.replace("_", " "), "samples", f"own {score}", "mean drop", "largest drop", "in"]]
    for row, samples, scores in zip(matrix.rows, matrix.samples, matrix.mean, strict=True):
        own, *others = scores
        cells = ["-", "-", "-"]
        if others:
            worst = int(np.argmin(others))
            drops = (own - float(np.mean(others)), own - others[worst])
            cells = [*map(points, drops), matrix.columns[1 + worst]]
        rows.append([row, str(samples), points(own), *cells])
    return table(rows)


def _remarks(drops: Mapping[str, Drops]) -> list[str]:
    """Returns lines on the shares of the variance, the members needed, and the meaning of the intervals."""
    lines = []
    for label, each in drops.items():
        if each.shares:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in each.shares.items())
            counts = {kind: "more samples" if count is None else count for kind, count in each.members_needed.items()}
            needed = ", ".join(f"{count} for {kind}" for kind, count in counts.items())
            lines.append(f"{label}: shares of the variance of drops: {shares}; members for ±2 points: {needed}")
        if each.log_ratio:
            numbers = f"{each.log_ratio.estimate:.2f} ({each.log_ratio.low:.2f} to {each.log_ratio.high:.2f})"
            lines.append(f"{label}: logarithm of the drop under corruptions over that under pipelines: {numbers}")
    about = dict.fromkeys(
        statistics.stated(each.about, len(each.members), each.samples, each.measured) for each in drops.values()
    )
    return [*lines, *about]


def _severities(severities: Sequence[int]) -> str:
    """Returns the severities that a mean is over in words."""
    if len(severities) == 1:
        return f"severity {severities[0]}"
    return f"severities {', '.join(map(str, severities))}"


def csv_rows(summary: Evaluation) -> list[dict[str, Any]]:
    """Makes a row for each run and ensemble, fold and case."""
    ensembles = {f"{label} (ensemble)": each.ensemble for label, each in summary.drops.items() if each.ensemble}
    return [
        {
            "run": label,
            "fold": fold,
            "group": run.tests[name]["group"],
            "test": name,
            "own": int(name == OWN.name or name in run.own),
            **{metric: value for metric, value in numbers.items() if isinstance(value, float)},
            "drop": tests[OWN.name][summary.score] - numbers[summary.score],
            **{f"{metric} {cls}": value for metric in PER_CLASS for cls, value in numbers[metric].items()},
        }
        for label, run in {**summary.runs, **ensembles}.items()
        for fold, tests in run.folds.items()
        for name, numbers in tests.items()
    ]
