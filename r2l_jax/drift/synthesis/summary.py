"""What an evaluation comes to: drops and their ratio, matrices of training and test, tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.figures import heat_map
from r2l_jax.drift.search.measure import LEAST_DROP
from r2l_jax.runtime.tables import table

# The numbers of one model in one test case by name: `loss`, the score, `precision`, `recall` and `f1` of each class,
# `confusion`.
Numbers = dict[str, Any]

PER_CLASS = ("precision", "recall", "f1")

# What the drops of each kind of drift are averaged over.
KINDS = {"processing": ("pipelines",), "acquisition": ("intensities", "exposures"), "corruption": ("corruptions",)}


class RunResults(NamedTuple):
    """The numbers of a run.

    Attributes:
        folder: the run's.
        processing_mode: how it was trained; None with a pipeline by name.
        pipeline: the title of its pipeline, if it has one.
        own: names of the test cases that are what it was trained on.
        folds: of each fold, by its number, the numbers of each test case by its name.
    """

    folder: str
    processing_mode: str | None
    pipeline: str | None
    own: tuple[str, ...]
    folds: Mapping[int, Mapping[str, Numbers]]


def summarize(runs: Mapping[str, RunResults], cases: Sequence[Case], score: str) -> dict:
    """Sums up the numbers of runs.

    A drop is the score on the run's own images less that of a test case, of the same fold. The headline has the score
    on these images, the mean drop of each kind of drift over all test cases but the run's own and `identity`, and how
    many times the drop under corruption is that under processing drift: None where there is none worth a ratio.

    Args:
        runs: by what they are called.
        cases: the test cases, the runs' own images first.
        score: the name of the number to compare by; more is better.

    Returns:
        `headline`, the mean over the runs; `runs`, of each its `headline`, means and standard deviations over its folds
        (`tests`), and the numbers of each of its `folds`; `matrices`, of each group of test cases the scores of all
        runs in all cases, or for corruptions the mean over the runs by corruption and severity.
    """
    summaries = {}
    for label, run in runs.items():
        tests = {case.name: {"group": case.group, **_over_folds(run.folds, case.name, score)} for case in cases}
        changed = {case.name: case.group for case in cases if case.name not in run.own and not _is_identity(case)}
        drops = {
            kind: _mean([tests[name]["drop"]["mean"] for name, group in changed.items() if group in groups])
            for kind, groups in KINDS.items()
        }
        summaries[label] = {
            "folder": run.folder,
            "processing_mode": run.processing_mode,
            "pipeline": run.pipeline,
            "own": list(run.own),
            "headline": _headline(tests[OWN.name][score]["mean"], drops),
            "tests": tests,
            "folds": {str(number): dict(numbers) for number, numbers in run.folds.items()},
        }
    headlines = [summary["headline"] for summary in summaries.values()]
    drops = {kind: _mean([headline[f"{kind}_drop"] for headline in headlines]) for kind in KINDS}
    return {
        "headline": _headline(_mean([headline[OWN.name] for headline in headlines]), drops),
        "runs": summaries,
        "matrices": _matrices(summaries, cases, score),
    }


def _is_identity(case: Case) -> bool:
    return case.corruption is not None and case.corruption[0] == "identity"


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None of none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _headline(own: float, drops: Mapping[str, float | None]) -> dict[str, float | None]:
    processing, corruption = drops["processing"], drops["corruption"]
    comparable = processing is not None and corruption is not None and processing >= LEAST_DROP
    return {
        OWN.name: own,
        **{f"{kind}_drop": drop for kind, drop in drops.items()},
        "corruption_over_processing": corruption / processing if comparable else None,
    }


def _over_folds(folds: Mapping[int, Mapping[str, Numbers]], name: str, score: str) -> dict:
    """Mean and standard deviation over the folds of what a test case comes to."""
    here = [numbers[name] for numbers in folds.values()]
    return {
        score: _mean_and_std([numbers[score] for numbers in here]),
        "drop": _mean_and_std([numbers[OWN.name][score] - numbers[name][score] for numbers in folds.values()]),
        "loss": _mean_and_std([numbers["loss"] for numbers in here]),
        **{
            metric: {cls: _mean_and_std([numbers[metric][cls] for numbers in here]) for cls in here[0][metric]}
            for metric in PER_CLASS
        },
    }


def _mean_and_std(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def _matrices(summaries: Mapping[str, dict], cases: Sequence[Case], score: str) -> dict:
    matrices = {}
    for group in ("pipelines", "intensities", "exposures"):
        columns = [case.name for case in cases if case.group == group]
        if columns:
            # The diagonal has each run's own images. A run without one has them in a column of their own.
            own = {
                label: next((name for name in columns if name in run["own"]), None) for label, run in summaries.items()
            }
            if None in own.values():
                columns.insert(0, OWN.name)
            diagonal = {label: name or OWN.name for label, name in own.items()}
            rows = sorted(summaries, key=lambda label: columns.index(diagonal[label]))
            matrices[group] = {"rows": rows, "columns": columns, "own": [diagonal[label] for label in rows]}
            for statistic in ("mean", "std"):
                matrices[group][statistic] = [
                    [summaries[label]["tests"][name][score][statistic] for name in columns] for label in rows
                ]
    corruptions = {case.corruption: case.name for case in cases if case.corruption}
    if corruptions:
        names, severities = (list(dict.fromkeys(part)) for part in zip(*corruptions, strict=True))
        matrices["corruptions"] = {
            "rows": names,
            "columns": severities,
            "mean": [
                [
                    _mean([run["tests"][corruptions[name, severity]][score]["mean"] for run in summaries.values()])
                    for severity in severities
                ]
                for name in names
            ],
        }
    return matrices


def make_figures(summary: Mapping[str, Any], score: str) -> dict[str, Figure]:
    """A heat map of each matrix of a summary."""
    several_folds = any(len(run["folds"]) > 1 for run in summary["runs"].values())
    runs = len(summary["runs"])
    titles = {
        "pipelines": "processing drift: trained (rows), tested (columns)",
        "intensities": "acquisition drift: measured intensities",
        "exposures": "acquisition drift: exposures by the sensor model",
        "corruptions": f"corruptions by severity; own images {summary['headline'][OWN.name]:.3f}"
        + (f"; mean of {runs} runs" if runs > 1 else ""),
    }
    figures = {}
    for group, matrix in summary["matrices"].items():
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


def make_table(summary: Mapping[str, Any], score: str) -> str:
    """The headline of every run; of a single one, also what each test case comes to, corruptions over severities."""
    runs, text = summary["runs"], ""
    if len(runs) == 1:
        ((_, run),) = runs.items()
        rows = [["test", score, "deviation", "drop"]]
        collected = {}
        for name, test in run["tests"].items():
            title = name.rpartition(".")[0] if test["group"] == "corruptions" else name
            collected.setdefault(title, []).append(test)
        for title, tests in collected.items():
            cells = (
                _mean([test[key][part] for test in tests])
                for key, part in ((score, "mean"), (score, "std"), ("drop", "mean"))
            )
            title += f" (mean of {len(tests)} severities)" if len(tests) > 1 else ""
            rows.append([title, *(f"{cell:.4f}" for cell in cells)])
        text = table(rows) + "\n\n"
    rows = [["run", f"own {score}", *(f"{kind} drop" for kind in KINDS), "corruption / processing"]]
    lines = {label: run["headline"] for label, run in runs.items()}
    if len(runs) > 1:
        lines["mean"] = summary["headline"]
    for label, headline in lines.items():
        *numbers, ratio = headline.values()
        cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
        rows.append([label, *cells, "-" if ratio is None else f"{ratio:.1f}"])
    return text + table(rows)


def csv_rows(summary: Mapping[str, Any], score: str) -> list[dict[str, Any]]:
    """A row for each run, fold and test case."""
    rows = []
    for label, run in summary["runs"].items():
        for fold, tests in run["folds"].items():
            for name, numbers in tests.items():
                own = name == OWN.name or name in run["own"]
                rows.append(
                    {
                        "run": label,
                        "fold": fold,
                        "group": run["tests"][name]["group"],
                        "test": name,
                        "own": int(own),
                        "loss": numbers["loss"],
                        score: numbers[score],
                        "drop": tests[OWN.name][score] - numbers[score],
                        **{f"{metric} {cls}": value for metric in PER_CLASS for cls, value in numbers[metric].items()},
                    }
                )
    return rows
