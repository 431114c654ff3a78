"""Shows adaptations in tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import isp
from r2l_jax.drift.adjustment.drifts import Drifted
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.searcher import Found
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.tables import table
from r2l_jax.training.run import TrainedFold

# A table shows the values of parameters with at most this many.
_SHOWN = 4


def drifts_table(content: Mapping[str, Any]) -> str:
    """Formats the score that each drift costs and that adaptation wins back, as means over the folds."""
    rows = [["drift", f"{content['score']} undrifted", "before", "after", "won back"]]
    for name, drift in content["drifts"].items():
        cells = [f"{drift[key]['mean']:.4f}" for key in ("undrifted", "before", "after")]
        won = drift["won_back"]["mean"]
        rows.append([name, *cells, "-" if won is None else f"{won:.0%}"])
    return table(rows)


def starts_table(content: Mapping[str, Any], score: str) -> str:
    """Formats where the search from each start ended, with a mark at the chosen start."""
    rows = [["start", "labeled loss", f"labeled {score}", score]]
    for start in content["starts"]:
        name = "no adaptation" if start["stops"] is None else f"{start['stops']:+d} stops"
        mark = " *" if start["stops"] == content["start"] else ""
        rows.append([name + mark, *(f"{start[key]:.4f}" for key in ("labelled_loss", "labelled_score", "score"))])
    return table(rows)


def parameters_table(frozen: Frozen, group: Sequence[str], adapted: Mapping[str, np.ndarray]) -> str:
    """Formats how far each parameter of the group has moved, and the values of small parameters."""
    rows = [["parameter", "default", "adapted", "farthest in natural ranges"]]
    for name in group:
        values = (frozen.default[name], np.asarray(adapted[name]))
        cells = [
            " ".join(map(format_value, each.ravel().tolist())) if each.size <= _SHOWN else f"{each.size} values"
            for each in values
        ]
        farthest = np.abs(np.asarray(frozen.facts[name].offset(*values))).max()
        rows.append([name, *cells, f"{farthest:.3f}"])
    return table(rows)


def curves_figure(found: Sequence[Found], starts: Sequence[int]) -> Figure:
    """Draws the task loss of the batches over the steps, with a line for each start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stops, one in zip(starts, found, strict=True):
        axes.plot(one.task_loss, linewidth=1, label=f"{stops:+d} stops")
    axes.set(xlabel="step", ylabel="task loss of labeled images")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="start")
    return figure


def pictures_sheet(count: int, fold: TrainedFold, under: Drifted, frozen: Frozen, adapted: isp.Pipeline) -> Image.Image:
    """Draws measured samples undrifted, as the head learned them, under the drift, and after adaptation.

    Args:
        count: how many samples.
        fold: the trained model, which shows the samples undrifted if the drifted data has the same scenes.
        under: the model under the drift.
        frozen: that model, frozen.
        adapted: its pipeline after adaptation.
    """
    indices = under.measured[:count]
    raws, _ = under.dataset.samples(indices)
    pictures = {"before": frozen.pipeline(frozen.default)(raws), "after": adapted(raws)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        own = Frozen(fold.model, fold.task)
        pictures = {"undrifted": own.pipeline(own.default)(fold.dataset.samples(indices)[0]), **pictures}
    # One by one, since whatever maps over a dict sorts it by name.
    pictures = {name: np.asarray(images) for name, images in pictures.items()}
    return contact_sheet(
        {f"{number} {name}": images[number] for number in range(len(indices)) for name, images in pictures.items()},
        columns=len(pictures),
    )
