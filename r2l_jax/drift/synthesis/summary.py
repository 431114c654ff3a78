"""Summarizes an evaluation: drops of the score and their ratio, matrices of runs and cases, tables and figures."""

import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.figures import heat_map, heat_map_of_groups
from r2l_jax.drift.results import EvaluatedRun, Evaluation, Groups, Statistic
from r2l_jax.drift.search.measure import LEAST_DROP
from r2l_jax.runtime.tables import table

# The numbers of one model in one case, by name: `loss`, the score, the task's further metrics, `precision`, `recall`
# and `f1` of each class, and `confusion`.
Numbers = dict[str, Any]

PER_CLASS = ("precision", "recall", "f1")

# The groups of cases over which the drop of each kind of drift is averaged.
KINDS = {"processing": ("pipelines",), "acquisition": ("intensities", "exposures"), "corruption": ("corruptions",)}


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
    score on the own images, the mean drop under each kind of drift, and the ratio of the drops under corruption and
    under processing drift. Mean drops leave out the cases on which the run was trained and `identity`. The standard
    error of the drop under processing drift is over the runs, over the folds of a single run, or over the cases of a
    single fold; None with fewer than two. The ratio is None if that drop is within its standard error, or too small to
    divide by.

    Args:
        runs: the runs, by name.
        cases: the cases; the runs' own images come first.
        score: the name of the score; higher is better.
        groups: for each run, field and value, the samples of each fold and the numbers of the cases.
    """
    summaries = {label: _summary(run, cases, score) for label, run in runs.items()}
    headlines = [summary.headline for summary in summaries.values()]
    drops = {kind: _mean([headline[f"{kind}_drop"] for headline in headlines]) for kind in KINDS}
    error = headlines[0]["processing_drop_error"]
    if len(headlines) > 1:
        error = _standard_error([headline["processing_drop"] for headline in headlines])
    return Evaluation(
        score=score,
        headline=_headline(_mean([headline[OWN.name] for headline in headlines]), drops, error),
        runs=summaries,
        matrices=_matrices(summaries, cases, score),
        by=_by_groups(groups, [case.name for case in cases], score),
    )


def _summary(run: RunResults, cases: Sequence[Case], score: str) -> EvaluatedRun:
    """Summarizes the numbers of a run."""
    tests = {case.name: {"group": case.group, **_over_folds(run.folds, case.name, score)} for case in cases}
    changed = {
        case.name: case.group
        for case in cases
        if case.name not in run.own and not (case.corruption and case.corruption[0] == "identity")
    }
    drops = {
        kind: _mean([tests[name]["drop"].mean for name, group in changed.items() if group in groups])
        for kind, groups in KINDS.items()
    }
    error = _standard_error(_processing_drops(run, changed, score))
    return EvaluatedRun(
        folder=run.folder,
        processing_mode=run.processing_mode,
        pipeline=run.pipeline,
        own=list(run.own),
        headline=_headline(tests[OWN.name][score].mean, drops, error),
        tests=tests,
        folds={str(number): dict(numbers) for number, numbers in run.folds.items()},
        training={str(number): each for number, each in run.training.items()},
    )


def _processing_drops(run: RunResults, changed: Mapping[str, str], score: str) -> list[float]:
    """Returns the drops that the standard error of their mean is computed from: of folds, or of the cases of one."""
    names = [name for name, group in changed.items() if group in KINDS["processing"]]
    drops = np.array([[fold[OWN.name][score] - fold[name][score] for name in names] for fold in run.folds.values()])
    if not names:
        return []
    return (drops.mean(1) if len(drops) > 1 else drops[0]).tolist()


def _standard_error(values: Sequence[float | None]) -> float | None:
    """Computes the standard error of the mean of the values that are not None, or None of fewer than two."""
    present = [value for value in values if value is not None]
    return float(np.std(present, ddof=1) / np.sqrt(len(present))) if len(present) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Computes the mean of the values that are not None, or None without such values."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _headline(own: float | None, drops: Mapping[str, float | None], error: float | None) -> dict[str, float | None]:
    processing, corruption = drops["processing"], drops["corruption"]
    ratio = None
    if processing is not None and corruption is not None and processing >= LEAST_DROP and processing > (error or 0):
        ratio = corruption / processing
    return {
        OWN.name: own,
        **{f"{kind}_drop": drop for kind, drop in drops.items()},
        "processing_drop_error": error,
        "corruption_over_processing": ratio,
    }


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
    corrupted = {case.corruption: case.name for case in cases if case.corruption}
    if corrupted:
        names, severities = (list(dict.fromkeys(part)) for part in zip(*corrupted, strict=True))
        by_name = {name: [corrupted[name, severity] for severity in severities] for name in names}
        matrices["corruptions"] = {
            "rows": names,
            "columns": severities,
            "mean": [
                [_mean([run.tests[case][score].mean for run in summaries.values()]) for case in by_name[name]]
                for name in names
            ],
        }
        matrices["corruptions_of_runs"] = {
            "severities": severities,
            **_scores_by_corruption(summaries, {OWN.name: [OWN.name], **by_name}, score),
        }
    return matrices


def _scores_of_runs(summaries: Mapping[str, EvaluatedRun], columns: list[str], score: str) -> dict[str, Any]:
    """Makes the matrix of all runs (rows) in the cases of a group (columns), with each run's own images marked."""
    own = {label: next((name for name in columns if name in run.own), None) for label, run in summaries.items()}
    if None in own.values():
        # Runs that were trained on images of another kind have them in a column of their own.
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


def _scores_by_corruption(
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
        "corruptions": f"corruptions by severity; own images {summary.headline[OWN.name]:.3f}"
        + (f"; mean of {runs} runs" if runs > 1 else ""),
    }
    matrices = dict(summary.matrices)
    of_runs = matrices.pop("corruptions_of_runs", None)
    if of_runs and runs > 1:
        matrices["corruptions_of_runs"] = of_runs
        titles["corruptions_of_runs"] = f"corruptions at {_severities(of_runs['severities'])}: trained (rows)"
    figures = {
        f"by_{field}": heat_map_of_groups(f"by {field}", matrix, matrix.mean, score)
        for field, matrix in summary.by.items()
    }
    for group, matrix in matrices.items():
        columns = matrix["columns"]
        framed = [(row, columns.index(name)) for row, name in enumerate(matrix.get("own", []))]
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
    """Formats the headlines of all runs, after groups of samples, and the cases of the run or runs by corruptions."""
    score, runs = summary.score, summary.runs
    headlines = {label: run.headline for label, run in runs.items()}
    tables = [_group_table(field, matrix, score) for field, matrix in summary.by.items()]
    if len(runs) == 1:
        (run,) = runs.values()
        tables += [_case_table(run, score), _headline_table(headlines, score)]
    else:
        if matrix := summary.matrices.get("corruptions_of_runs"):
            tables.append(_corruptions_table(matrix, score, _several_folds(summary)))
        tables.append(_headline_table({**headlines, "mean": summary.headline}, score))
    return "\n\n".join(tables)


def _group_table(field: str, matrix: Groups, score: str) -> str:
    """Formats the scores of the groups of a field: on the own images, and the mean drop of the other cases."""
    rows = [[field.replace("_", " "), "samples", f"own {score}", "mean drop", "largest drop", "in"]]
    for row, samples, scores in zip(matrix.rows, matrix.samples, matrix.mean, strict=True):
        own, *others = scores
        cells = ["-", "-", "-"]
        if others:
            worst = int(np.argmin(others))
            drops = (own - float(np.mean(others)), own - others[worst])
            cells = [*(f"{drop:.4f}" for drop in drops), matrix.columns[1 + worst]]
        rows.append([row, str(samples), f"{own:.4f}", *cells])
    return table(rows)


def _case_table(run: EvaluatedRun, score: str) -> str:
    """Formats the scores of a run, with the mean of each corruption over its severities."""
    collected = {}
    for name, test in run.tests.items():
        title = name.rpartition(".")[0] if test["group"] == "corruptions" else name
        collected.setdefault(title, {})[name] = test
    rows = [["test", score, "deviation", "drop"]]
    for title, tests in collected.items():
        scores = [test[score] for test in tests.values()]
        drops = [test["drop"].mean for test in tests.values()]
        cells = map(_mean, ([each.mean for each in scores], [each.std for each in scores], drops))
        # The name of a single severity's case has the severity.
        title = f"{title} (mean of {len(tests)} severities)" if len(tests) > 1 else next(iter(tests))
        numbers = [f"{cell:.4f}" for cell in cells]
        if len(run.folds) == 1:
            numbers[1] = "-"  # One fold has no deviation.
        rows.append([title, *numbers])
    return table(rows)


def _headline_table(headlines: Mapping[str, Mapping[str, float | None]], score: str) -> str:
    rows = [["run", f"own {score}", *(f"{kind} drop" for kind in KINDS), "corruption / processing"]]
    for label, headline in headlines.items():
        cells = {name: "-" if number is None else f"{number:.4f}" for name, number in headline.items()}
        drop, error, ratio = (
            headline[name] for name in ("processing_drop", "processing_drop_error", "corruption_over_processing")
        )
        quotient = "-" if ratio is None else f"{ratio:.1f}"
        if drop is not None and error is not None:
            cells["processing_drop"] += f"±{error:.4f}"
            if abs(drop) <= error:
                quotient = "drop within its error"
        rows.append([label, *(cells[name] for name in (OWN.name, *(f"{kind}_drop" for kind in KINDS))), quotient])
    return table(rows)


def _corruptions_table(matrix: Mapping[str, Any], score: str, several_folds: bool) -> str:
    """Formats the scores of runs under each corruption, with their standard deviations over several folds."""
    rows = [[f"{score} at {_severities(matrix['severities'])}", *matrix["columns"]]]
    for label, means, deviations in zip(matrix["rows"], matrix["mean"], matrix["std"], strict=True):
        pairs = zip(means, deviations, strict=True)
        rows.append([label, *(f"{mean:.3f}" + (f"±{std:.3f}" if several_folds else "") for mean, std in pairs)])
    return table(rows)


def _severities(severities: Sequence[int]) -> str:
    """Returns the severities that a mean is over in words."""
    if len(severities) == 1:
        return f"severity {severities[0]}"
    return f"severities {', '.join(map(str, severities))}"


def csv_rows(summary: Evaluation) -> list[dict[str, Any]]:
    """Makes a row for each run, fold and case."""
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
        for label, run in summary.runs.items()
        for fold, tests in run.folds.items()
        for name, numbers in tests.items()
    ]
