"""The page of a study: its numbers, the published ones, and the difference in standard deviations of the folds."""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.document import Block, Cell, Code, Details, Pictures, Section, Table, Text, Tiles
from r2l_jax.apps.report.pictures import embedded, existing
from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.synthesis import ratio_text
from r2l_jax.runtime.commands import command
from r2l_jax.runtime.flags import flat

Numbers = Mapping[str, Any]

# The greatest width of a figure in pixels.
_WIDTH = 1600

_DIFFERENCE = "difference in fold deviations"

_HEADLINE = {
    "own": "own images",
    "other_pipelines": "other pipelines",
    "corruption": "corruptions",
    "processing_drop": "drop under other pipelines",
    "corruption_drop": "drop under corruptions",
    "sensor": "drift of the sensor",
    "sensor_drop": "drop under drift of the sensor",
}


def make_sections(content: Numbers, folder: pathlib.Path) -> list[Section]:
    """Makes the sections of the controls that have results.

    Args:
        content: the content of study.json.
        folder: the folder of the figures.
    """
    return [
        Section("Overview", _overview(content)),
        *_synthesis(content, folder),
        *_forensics(content, folder),
        *_adjustment(content, folder),
        Section("Reproduction", _reproduction(content)),
    ]


def _overview(content: Numbers) -> list[Block]:
    published, tiles = content["published"], []
    for score, of_score in content.get("synthesis", {}).get("scores", {}).items():
        numbers, theirs = of_score["headline"], of_score.get("published")
        remark = f"published {ratio_text(theirs['headline']['log_ratio'])}" if theirs else ""
        title = f"Log ratio of the drops under corruptions and pipelines, {score}"
        tiles.append((title, ratio_text(numbers["log_ratio"]), remark))
    blocks: list[Block] = [Tiles(tiles)] if tiles else []
    folds = f"{content['folds']} fold{'s' * (content['folds'] > 1)}"
    same = "The published numbers are of the same data."
    if not published["comparable"]:
        same = (
            f"The published numbers are of {published['data'].replace('_', ' ')}, which is different data: they are "
            "shown for orientation only, and no difference is computed."
        )
    blocks.append(Text(f"Models of {content['dataset']}, trained on {folds}. {same} Source: {published['source']}."))
    if content["failed"]:
        rows = [[Cell(name), Cell(reason)] for name, reason in content["failed"].items()]
        blocks.append(Table("Jobs that failed, without which the tables are made", ("job", "reason"), rows))
    return blocks


def _synthesis(content: Numbers, folder: pathlib.Path) -> list[Section]:
    synthesis, sections = content.get("synthesis", {}), []
    for score, of_score in synthesis.get("scores", {}).items():
        suffix = "" if score == content["published"]["recorded_as"] else f"_{score}"
        figures = _figures(folder, f"synthesis{suffix}", f"synthesis_drops{suffix}")
        if "published" in of_score:
            figures += _figures(folder, "synthesis_published")
        titles = {"processing": "under each pipeline", "corruption": "under corruptions"}
        titles |= {"sensor": "under drift of the sensor"} if "sensor" in of_score else {}
        matrices: list[Block] = [
            _matrix(of_score[name], which, f"{word} {title}")
            for name, title in titles.items()
            for which, word in (("mean", score), ("drop_mean", f"drop of {score}"))
        ]
        blocks = [_headline(of_score, score), _largest(of_score), *figures, Details("All numbers", matrices)]
        sections.append(Section(f"Scores as {score}", blocks))
    computed = [f"{name} as {ours}" for name, ours in synthesis.get("computed", {}).items() if name != ours]
    note = (
        "Rows are the pipelines that models were trained with, in figures by the beginnings of stages: bi,s,me is "
        "bilinear.sharpening_filter.median_denoising. Framed cells are the models' own images."
    )
    if computed:
        note += (
            " As in the study's program, pipelines with unsharp_masking were computed with unsharp_masking_vertical, "
            "along columns only."
        )
    return document.section("Drift synthesis", [Text(note)] if sections else [], sections)


def _headline(of_score: Numbers, score: str) -> Table:
    ours, theirs = of_score["headline"], of_score.get("published", {}).get("headline")
    titles = {name: title for name, title in _HEADLINE.items() if name in ours}
    rows = [[Cell(title), _mean(ours[name])] for name, title in titles.items()]
    rows.append([Cell("log ratio of the drops"), _ratio(ours)])
    columns = ["", "ours"]
    if theirs:
        columns += ["published", _DIFFERENCE]
        for row, name in zip(rows, titles, strict=False):
            mean = theirs[name]["mean"] if name in theirs else None
            row += [tables.loss(mean), _difference(ours[name].get("difference"))]
        rows[-1] += [_ratio(theirs), tables.text(None)]
    return Table(f"Mean {score} of all models, and its drops", columns, rows)


def _largest(of_score: Numbers) -> Text:
    """Says which pipeline makes the largest part of the drop, as one column does in the published table."""
    said = []
    headlines = {"Here": of_score["headline"], "In the study": of_score.get("published", {}).get("headline")}
    for name, numbers in headlines.items():
        column = numbers and numbers["largest_column"]
        if column and column["share"] is not None:
            said.append(
                f"{name}, models lose most under {column['pipeline']}, {column['share']:.0%} of the drop under other "
                f"pipelines; without this column the log ratio is {ratio_text(column['log_ratio'])}."
            )
    interval = (
        "Log ratios are natural logarithms. Their intervals hold 95% of bootstrap samples of the models and the folds; "
        "the pipelines and corruptions that they are tested on stay the same. A ratio of a drop that may be 0 is left "
        "out."
    )
    return Text(" ".join([*said, interval]))


def _ratio(numbers: Numbers) -> Cell:
    ratio = numbers["log_ratio"]
    return Cell(ratio_text(ratio), ratio and ratio["estimate"])


def _mean(numbers: Numbers) -> Cell:
    return tables.with_deviation(tables.loss, numbers["mean"], numbers["std"])


def _matrix(matrix: Numbers, which: str, title: str) -> Table:
    """Makes a table of a matrix with its deviations, and the difference to the published where there is one."""
    deviations, differences = matrix[which.replace("mean", "std")], matrix.get("difference")
    rows = []
    for number, name in enumerate(matrix["rows"]):
        cells = []
        for place, column in enumerate(matrix["columns"]):
            cell = tables.with_deviation(tables.loss, matrix[which][number][place], deviations[number][place])
            away = differences[number][place] if differences and which == "mean" else None
            remark = f"{away:+.1f} deviations from the published" if away is not None else ""
            cells.append(cell._replace(framed=name == column, remark=remark))
        rows.append(cells)
    titled = [[Cell(name), *cells] for name, cells in zip(matrix["rows"], tables.leveled(rows), strict=True)]
    return Table(title, ["trained with", *map(tables.breakable, matrix["columns"])], titled)


def _difference(value: float | None) -> Cell:
    return tables.text(None) if value is None else Cell(f"{value:+.1f}", value)


def _forensics(content: Numbers, folder: pathlib.Path) -> list[Section]:
    forensics = content.get("forensics")
    if not forensics or not forensics["groups"]:
        return []
    default = forensics["default"]
    factor = forensics["l2_factor"]
    note = (
        f"The default processing scores {default['mean']:.3f} ± {default['std']:.3f}. The smaller the weight, the "
        "farther a search may go from the default rendering."
    )
    if factor:
        note += f" A weight of l2_sum acts as {factor:,} times that weight of l2, which is a mean over a batch."
    blocks: list[Block] = [Text(note), *_figures(folder, "forensics", "forensics_pictures")]
    blocks.append(Details("All numbers", [_worst_cases(forensics)]))
    return document.section("Drift forensics", blocks)


def _worst_cases(forensics: Numbers) -> Table:
    rows = []
    for group, curve in forensics["groups"].items():
        known = forensics["published"]["groups"].get(group, {"weights": [], "scores": []})
        published = dict(zip(known["weights"], known["scores"], strict=True))
        differences = curve.get("difference", [None] * len(curve["weights"]))
        for place, weight in enumerate(curve["weights"]):
            rows.append(
                [
                    Cell(group),
                    Cell(f"{weight:g}", weight),
                    tables.with_deviation(tables.loss, curve["mean"][place], curve["std"][place]),
                    tables.loss(curve["ssim"][place]),
                    tables.number(published.get(weight)),
                    _difference(differences[place]),
                ]
            )
    columns = ["group", "weight", forensics["score"], "SSIM", "published", _DIFFERENCE]
    return Table("Worst cases", columns, rows)


def _adjustment(content: Numbers, folder: pathlib.Path) -> list[Section]:
    adjustment = content.get("adjustment")
    if not adjustment or not adjustment["runs"]:
        return []
    score = adjustment["score"]
    rows = [
        [
            Cell(name),
            _mean(run["end"]),
            tables.number(adjustment["published"][name]),
            _difference(run["end"].get("difference")),
        ]
        for name, run in adjustment["runs"].items()
    ]
    columns = ("processing", "ours", "published", _DIFFERENCE)
    blocks: list[Block] = [
        Text(f"Validation at intensity {adjustment['intensity']:g} while models train, as the mean over the folds."),
        Table(f"{score} after the last epoch", columns, rows),
        *_figures(folder, "adjustment"),
    ]
    return document.section("Drift adjustment", blocks)


def _figures(folder: pathlib.Path, *names: str) -> list[Block]:
    found = [file for name in names if (file := existing(folder, f"{name}.png"))]
    shown = [embedded(file, _WIDTH, file.stem.replace("_", " "), file.name, is_plot=True) for file in found]
    return [Pictures(shown, wide=True)] if shown else []


def _reproduction(content: Numbers) -> Sequence[Block]:
    flags, defaults = content["flags"], json.loads(json.dumps(flat(StudyConfig())))
    changed = [f"--{name}={_text(value)}" for name, value in flags.items() if value != defaults[name]]
    settings = [[Cell(f"--{name}"), tables.text(_text(value))] for name, value in flags.items()]
    return [
        Code(shlex.join([*command("study").split(), *changed])),
        Details("All settings", [Table("Settings, with those at their defaults", ("setting", "value"), settings)]),
    ]


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
