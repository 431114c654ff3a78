"""Drift adjustment in a report: adaptations to drifts."""

import pathlib
from collections.abc import Sequence

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.document import Block, Cell, Details, Pictures, Section, Table, Text
from r2l_jax.apps.report.pictures import Detail, embedded, existing
from r2l_jax.apps.report.runs import RunRecord
from r2l_jax.drift.results import METHOD_TITLES, Adaptation, Adapted, start_titles

# The cells of the scores undrifted, before and after adaptation, and of the share won back.
_FORMS = (*[tables.score] * 3, tables.share)


def make(runs: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes the section of the adjustments of all runs."""
    adapted = [
        (run.name, _adaptation(run.adaptation, run.folder / "adjustment", detail) if run.adaptation else [])
        for run in runs
    ]
    sections = document.section("Adaptation to drift", document.panels(adapted))
    return document.section("Drift adjustment", [], sections)


def _adaptation(content: Adaptation, folder: pathlib.Path, detail: Detail) -> list[Block]:
    several = len(content.folds) > 1
    blocks: list[Block] = [_scores_table(content)]
    if methods := _methods_table(content):
        blocks.append(methods)
    for fold, drifts in content.folds.items():
        for drift, adapted in drifts.items():
            title = f"{drift}, fold {fold}" if several else drift
            blocks += _pictures(folder, f"fold_{fold}", drift, title, detail)
            blocks.append(Details(f"Searches and values for {title}", _tables(adapted, content.score)))
    return blocks


def _scores_table(content: Adaptation) -> Table:
    """Makes the table of scores: a row for each drift, and of several folds also one for each fold."""
    several = len(content.folds) > 1
    rows = []
    for name, drift in content.drifts.items():
        numbers = (drift.undrifted, drift.before, drift.after, drift.won_back)
        means = [
            tables.with_deviation(make, each.mean, each.std if several else None)
            for make, each in zip(_FORMS, numbers, strict=True)
        ]
        rows.append([Cell(name), *means])
        for fold, drifts in content.folds.items():
            if several and (one := drifts.get(name)):
                of_fold = (one.undrifted, one.before, one.after, one.won_back)
                cells = [make(each) for make, each in zip(_FORMS, of_fold, strict=True)]
                rows.append([Cell(f"{name}, fold {fold}"), *cells])
    columns = ["drift", f"{content.score}, undrifted", "before", "after", "share won back"]
    checkpoint = content.flags.get("checkpoint")
    of = f", {checkpoint} checkpoint" if checkpoint else ""
    return Table(f"Scores before and after adaptation{of}", columns, rows)


def _methods_table(content: Adaptation) -> Table | None:
    """Makes the table of the scores after the baseline and the methods: a row for each, and a column for each drift."""
    drifts = content.drifts.values()
    names = [name for name in METHOD_TITLES if any(name in drift.methods for drift in drifts)]
    if not names:
        return None
    rows = [[Cell("nothing"), *(tables.score(drift.before.mean) for drift in drifts)]]
    for name in names:
        scores = (drift.methods[name].estimate if name in drift.methods else None for drift in drifts)
        rows.append([Cell(METHOD_TITLES[name]), *map(tables.score, scores)])
    return Table(f"{content.score} of methods", ["method", *content.drifts], rows)


def _pictures(folder: pathlib.Path, fold: str, drift: str, title: str, detail: Detail) -> list[Block]:
    pictures = []
    for name, caption in (("pictures", "samples undrifted, before and after"), ("curves", "objective of the searches")):
        if file := existing(folder, fold, drift, f"{name}.png"):
            alternative, is_plot = f"Adaptation to {title}: {caption}", name == "curves"
            texts = alternative, f"{title}: {caption}"
            pictures.append(embedded(file, detail.width, *texts, on_paper=not is_plot, is_plot=is_plot))
    return [Pictures(pictures)] if pictures else []


def _tables(adapted: Adapted, score: str) -> list[Block]:
    """Makes the tables of the starts of an adaptation, and of the values that it has changed."""
    blocks: list[Block] = [Text(f"{each}.") for each in (adapted.refusal, adapted.statistics) if each]
    if adapted.starts:
        shown = start_titles(adapted.starts)
        starts = [
            [
                Cell(
                    "no search" if start.stops is None else f"{start.stops:+d} stops",
                    framed=start.stops == adapted.start,
                ),
                *((tables.score if "score" in name else tables.loss)(getattr(start, name)) for name in shown),
            ]
            for start in adapted.starts
        ]
        columns = ["start", *(title.format(score=score) for title in shown.values())]
        blocks.append(Table("Ends of the searches; the framed start is chosen", columns, starts))
    ends = {"before": tables.elements(adapted.default), "after": tables.elements(adapted.parameters)}
    return [*blocks, *tables.values("Values before and after", ends)]
