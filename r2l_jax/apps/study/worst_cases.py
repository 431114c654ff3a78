"""Pictures along the price of distance: a sample as the worst processing under each weight renders it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.training.run import open_runs


def worst_cases_figure(config: StudyConfig, forensics: Mapping[str, Any]) -> Figure:
    """Draws the first validation sample of the first fold: a row for each group, from the default to the least price.

    Args:
        config: the study.
        forensics: the numbers of the part, with the `parameters` of the first fold's worst cases.
    """
    uri = f"{forensics['run']}/fold_0"
    ((fold,),) = open_runs([uri], config.data.data_dir, checkpoint=config.choice.checkpoint)
    raws, _ = fold.dataset.samples(fold.valid_indices[:1])
    pipeline = pipeline_of(fold.model)
    # Compiled once for all worst cases, which differ in values alone.
    render = jax.jit(lambda values: pipeline.with_values(values)(raws)[0])
    default = jax.device_get(pipeline.parameters())
    groups = forensics["groups"]
    columns = 1 + max(len(curve["weights"]) for curve in groups.values())
    figure = Figure(figsize=(1.3 * columns + 1, 1.45 * len(groups) + 0.4), layout="constrained")
    grid = figure.subplots(len(groups), columns, squeeze=False)
    for of_group, (group, curve) in zip(grid, groups.items(), strict=True):
        titles = ["default", *(f"{weight:g}: {score:.2f}" for weight, score in _points(curve))]
        values = [default, *(default | _arrays(parameters) for parameters in curve["parameters"])]
        for axes in of_group:
            axes.set(xticks=[], yticks=[])
        for axes, title, parameters in zip(of_group, titles, values, strict=False):
            axes.imshow(np.clip(jax.device_get(render(parameters)), 0, 1))
            axes.set_title(title, fontsize="x-small")
        of_group[0].set_ylabel(group.replace("_", "\n"), fontsize="x-small")
    return figure


def _points(curve: Mapping[str, Any]) -> zip:
    return zip(curve["weights"], curve["mean"], strict=True)


def _arrays(parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in parameters.items()}
