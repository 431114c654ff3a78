"""The figures of a study in the layout of the published ones."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.data import loader
from r2l_jax.drift.figures import fill_heat_map
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.runtime.files import replacing
from r2l_jax.training.run import load

Numbers = Mapping[str, Any]

_PUBLISHED = "published"

# The dots per inch of figures, at which the numbers in the matrices can be read.
_DPI = 130


def make(config: StudyConfig, content: Numbers) -> dict[str, Figure]:
    """Draws the figures of all controls of a study that have results, by the names of their files."""
    figures: dict[str, Figure] = {}
    published = content["published"]
    for score, of_score in content.get("synthesis", {}).get("scores", {}).items():
        suffix = "" if score == published["recorded_as"] else f"_{score}"
        figures[f"synthesis{suffix}"] = _matrices(of_score, "mean", score, f"{content['dataset']}: {score}")
        figures[f"synthesis_drops{suffix}"] = _matrices(
            of_score,
            "drop_mean",
            f"drop of {score}",
            f"{content['dataset']}: {score} on own images minus {score} on these",
        )
        if _PUBLISHED in of_score:
            title = f"published, {published['data'].replace('_', ' ')}: {published['score']}"
            figures["synthesis_published"] = _matrices(of_score[_PUBLISHED], "mean", published["score"], title)
    forensics = content.get("forensics")
    if forensics and forensics["groups"]:
        figures["forensics"] = _curves_over_weight(forensics)
        figures["forensics_pictures"] = _worst_cases(config, forensics)
    adjustment = content.get("adjustment")
    if adjustment and adjustment["runs"]:
        figures["adjustment"] = _curves_over_steps(adjustment)
    return figures


def write(folder: pathlib.Path, figures: Mapping[str, Figure]) -> None:
    """Writes each figure as `<name>.png`."""
    for name, figure in figures.items():
        with replacing(folder / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=_DPI)


def _matrices(content: Numbers, which: str, label: str, title: str) -> Figure:
    """Draws the matrices of processing drift and of corruptions side by side, on one scale of colors."""
    matrices = {"processing drift": content["processing"], "corruptions": content["corruption"]}
    values = [np.array(matrix[which]) for matrix in matrices.values()]
    both = np.concatenate([each.ravel() for each in values])
    norm = Normalize(both.min(), max(both.max(), both.min() + 1e-3))
    height = 2.6 + 0.42 * len(matrices["processing drift"]["rows"])
    widths = [len(matrix["columns"]) for matrix in matrices.values()]
    figure = Figure(figsize=(4.5 + 0.52 * sum(widths), height), layout="constrained")
    both_axes = figure.subplots(1, 2, sharey=True, width_ratios=widths)
    image = None
    for axes, (name, matrix), shown in zip(both_axes, matrices.items(), values, strict=True):
        diagonal = [
            (row, matrix["columns"].index(title))
            for row, title in enumerate(matrix["rows"])
            if title in matrix["columns"]
        ]
        rows, columns = (list(map(_short, matrix[side])) for side in ("rows", "columns"))
        image = fill_heat_map(axes, shown, rows, columns, norm, framed=diagonal, number=".2f")
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("tested on")
    both_axes[0].set_ylabel("trained on")
    assert image is not None
    figure.colorbar(image, label=label)
    figure.suptitle(title)
    return figure


_SHORT = {
    "bilinear": "bi",
    "malvar2004": "ma",
    "menon2007": "me",
    "sharpening_filter": "s",
    "unsharp_masking": "u",
    "median_denoising": "me",
    "gaussian_denoising": "ga",
}


def _short(name: str) -> str:
    """Returns the short name of a pipeline that the study's figures have, such as "bi,s,me"; others stay."""
    parts = name.split(".")
    return ",".join(_SHORT[part] for part in parts) if all(part in _SHORT for part in parts) else name.replace("_", " ")


def _curves_over_weight(forensics: Numbers) -> Figure:
    """Draws the score of the worst cases over the weight of the distance, with a line for each group."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    groups = [*forensics["groups"], *(name for name in forensics["published"]["groups"])]
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(groups))}
    for group, curve in forensics["groups"].items():
        _curves(axes, curve["weights"], curve["folds"], colors[group], group.replace("_", " "))
    for group, curve in forensics["published"]["groups"].items():
        label = f"{group.replace('_', ' ')}, published" + " (other data)" * (not forensics["comparable"])
        axes.plot(curve["weights"], curve["scores"], "--", color=colors[group], linewidth=1, alpha=0.7, label=label)
    axes.axhline(forensics["default"]["mean"], color="gray", linestyle=":", linewidth=1, label="default processing")
    axes.set_xscale("log")
    # As published, the price falls from left to right.
    axes.invert_xaxis()
    axes.set(xlabel=f"weight of the distance ({forensics['aux_loss']})", ylabel=f"validation {forensics['score']}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _curves_over_steps(adjustment: Numbers) -> Figure:
    """Draws the score of learned and of frozen processing over the steps of training, and the published ends."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    theirs_is = "published end" + " (other data)" * (not adjustment["comparable"])
    for number, (name, run) in enumerate(adjustment["runs"].items()):
        _curves(axes, run["steps"], run["folds"], f"C{number}", f"{name} processing")
        theirs = adjustment["published"][name]
        axes.axhline(theirs, color=f"C{number}", linestyle="--", linewidth=1, alpha=0.7, label=f"{name}, {theirs_is}")
    axes.set(xlabel="step", ylabel=f"validation {adjustment['score']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _curves(
    axes: Axes, xs: Sequence[int] | Sequence[float], folds: Sequence[Sequence[float]], color: str, label: str
) -> None:
    """Draws a line of means, and a thin one for each fold: often there are too few for a deviation to mean much."""
    axes.plot(xs, np.mean(folds, 0), color=color, marker=".", label=label)
    if len(folds) > 1:
        for fold in folds:
            axes.plot(xs, fold, color=color, alpha=0.4, linewidth=0.7)


def _worst_cases(config: StudyConfig, forensics: Numbers) -> Figure:
    """Draws the first validation sample of the first fold: a row for each group, from the default to the worst case."""
    uri = f"{forensics['run']}/fold_0"
    code, place = config.training_of("check").code, config.data.data_dir
    (fold,) = load(uri, None, config.choice.checkpoint, code, place, with_data=True)
    sample = loader.batch_of(fold.dataset, fold.measured_indices[:1])
    pipeline = pipeline_of(fold.model)
    # Compiled once for all worst cases, which differ in values alone.
    render = jax.jit(lambda values: pipeline.with_values(values)(sample["raw"])[0])
    default = jax.device_get(pipeline.parameters())
    groups = forensics["groups"]
    columns = 1 + max(len(curve["weights"]) for curve in groups.values())
    figure = Figure(figsize=(1.3 * columns + 1, 1.45 * len(groups) + 0.4), layout="constrained")
    grid = figure.subplots(len(groups), columns, squeeze=False)
    for of_group, (group, curve) in zip(grid, groups.items(), strict=True):
        points = zip(curve["weights"], curve["mean"], strict=True)
        titles = ["default", *(f"{weight:g}: {score:.2f}" for weight, score in points)]
        values = [default, *(default | _arrays(parameters) for parameters in curve["parameters"])]
        for axes in of_group:
            axes.set(xticks=[], yticks=[])
        for axes, title, parameters in zip(of_group, titles, values, strict=False):
            axes.imshow(np.clip(jax.device_get(render(parameters)), 0, 1))
            axes.set_title(title, fontsize="x-small")
        of_group[0].set_ylabel(group.replace("_", "\n"), fontsize="x-small")
    return figure


def _arrays(parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in parameters.items()}
