"""Worst cases: which parameters of a processing break a model, and how far from the default they must move."""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import isp
from isp.published import ADDITIVE_LAYER, additive_layer_stage
from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measured, Measurer, ticking, whole_batches
from r2l_jax.drift.search.ranges import tuned
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.build import image_size
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import on_every_process
from r2l_jax.runtime.tables import table
from r2l_jax.training.run import TrainedFold

# The standard deviation of random starts around the default, in natural ranges: too small to be seen, large enough that
# searches take different ways.
_SPREAD = 0.02

# The group, the weight and the number of the start of each search.
Plan = Sequence[tuple[str, float, int]]


def searched(config: ForensicsConfig, fold: TrainedFold) -> RawToLogit:
    """Returns the model to search: the fold's, with an additive layer after its pipeline if --adv_noise_layer asks."""
    pipeline = pipeline_of(fold.model)
    if not config.adv_noise_layer or ADDITIVE_LAYER in pipeline.facts:
        return fold.model
    if ADDITIVE_LAYER in pipeline.stage_names:
        raise InputError(f"--adv_noise_layer: {fold.config.processing.flag} has a stage {ADDITIVE_LAYER} of its own")
    pipeline = pipeline.inserted(
        additive_layer_stage(image_size(pipeline, fold.dataset.shape)), after=pipeline.stage_names[-1]
    )
    return RawToLogit(pipeline, fold.model.normalizer, fold.model.head)


def make_searches(config: ForensicsConfig, pipeline: isp.Pipeline) -> tuple[Plan, list[Search]]:
    """Makes the searches for a pipeline: every group, under every weight, from every start.

    A group is "all" parameters or a single one. Without --adv_parameters, the groups are "all" and each parameter that
    is tuned by hand.

    Returns:
        The plan, and the search for each of its entries.

    Raises:
        InputError: the pipeline has no parameter of a group's name.
    """
    names = config.adv_parameters
    parameters = tuple(pipeline.parameters())
    known = {"all": parameters, **{name: (name,) for name in parameters}}
    for name in names:
        if name not in known:
            hint = "; give --adv_noise_layer as well" if name == ADDITIVE_LAYER else ""
            raise InputError(f"--adv_parameters must be of {', '.join(known)}, got {name!r}{hint}")
    plan = list(
        itertools.product(names or ("all", *tuned(pipeline.facts)), config.adv_aux_weight, range(config.starts))
    )
    searches = [
        Search(known[group], weight, seed=config.seed + start, spread=_SPREAD if start else 0.0)
        for group, weight, start in plan
    ]
    return plan, searches


def drawn(config: ForensicsConfig, fold: TrainedFold) -> np.ndarray:
    """Returns the training samples that batches are drawn from."""
    return np.random.default_rng(config.seed).permutation(fold.train_indices)[: config.samples]


def analyse(config: ForensicsConfig, fold: TrainedFold, stop: Callable[[], bool], file: pathlib.Path) -> Analysis:
    """Searches for the worst processing of a fold, and measures the model under it on the validation samples.

    Batches are drawn from the fold's training samples. Of several starts, the one that is worst on the validation
    samples counts: the worst of a few, not their mean.

    Args:
        config: the searches.
        fold: the trained model.
        stop: asked after each step, and ends the searches there; the same answer in all processes.
        file: keeps unfinished searches.

    Raises:
        InputError: the pipeline does not have a group, or a search has diverged.
        Interrupted: `stop` returned True.
    """
    model = searched(config, fold)
    plan, searches = make_searches(config, pipeline_of(model))
    frozen = Frozen(model, fold.task)
    searcher = Searcher(
        frozen,
        direction="worst",
        aux_loss=config.adv_aux_loss,
        learning_rate=config.lr,
        batch_size=config.batch_size,
    )
    raws, targets = on_every_process(lambda: fold.dataset.samples(drawn(config, fold)))
    found = searcher.run(searches, raws, targets, config.steps, stop, file)
    batches = whole_batches(fold.dataset, fold.valid_indices, config.batch_size)
    processings = [frozen.default, *(one.parameters for one in found)]
    total = len(processings) * len(batches)
    with ticking("worst cases", total, stop, lambda: "stopped; the same command goes on from there") as tick:
        default, *measured = Measurer(frozen).measure(processings, batches, tick)
    rows = _rows(plan, default, measured, found)
    pictures: dict[str, Figure | Image.Image] = {"curves": _curves(plan, found)}
    if config.adv_track_differences:
        for group in dict.fromkeys(group for group, _, _ in plan):
            of_group = [row for row in rows if row["group"] == group]
            worst = min(of_group, key=lambda row: (row["score"], -row["loss"]))
            pictures[group] = _differences(
                frozen, worst["parameters"], *(each[: config.track_n_images] for each in (raws, targets))
            )
    score = fold.task.score
    content = {"score": score, "default": {"score": default.score, "loss": default.loss}, "rows": rows}
    return Analysis(content, _table(content), pictures)


def _rows(plan: Plan, default: Measured, measured: Sequence[Measured], found: Sequence[Found]) -> list[dict[str, Any]]:
    """Returns a row for each group and weight: the worst of its starts, and the range of the starts' scores."""
    rows = []
    for group, weight in dict.fromkeys((group, weight) for group, weight, _ in plan):
        places = [place for place, (*key, _) in enumerate(plan) if key == [group, weight]]
        worst = min(places, key=lambda place: (measured[place].score, -measured[place].loss))
        scores = [measured[place].score for place in places]
        rows.append(
            {
                "group": group,
                "aux_weight": weight,
                "score": measured[worst].score,
                "drop": default.score - measured[worst].score,
                "loss": measured[worst].loss,
                "ssim": measured[worst].ssim,
                "spread": max(scores) - min(scores),
                "parameters": {name: value.tolist() for name, value in found[worst].parameters.items()},
                "task_loss": found[worst].task_loss.tolist(),
                "deviation": found[worst].deviation.tolist(),
            }
        )
    return rows


def _table(content: dict[str, Any]) -> str:
    rows = [["group", "weight", f"{content['score']} default", "worst case", "drop", "SSIM", "between starts"]]
    for row in content["rows"]:
        numbers = (content["default"]["score"], row["score"], row["drop"], row["ssim"], row["spread"])
        rows.append([row["group"], f"{row['aux_weight']:g}", *(f"{number:.4f}" for number in numbers)])
    return table(rows)


def _curves(plan: Plan, found: Sequence[Found]) -> Figure:
    """Draws task loss and deviation over the steps, with a line for each search and a color for each group."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(group for group, _, _ in plan))}
    both = figure.subplots(1, 2)
    for axes, name in zip(both, ("task_loss", "deviation"), strict=True):
        labels = set()
        for (group, _, _), one in zip(plan, found, strict=True):
            label = None if group in labels else group
            axes.plot(getattr(one, name), color=colors[group], linewidth=0.8, label=label)
            labels.add(group)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    both[-1].legend(fontsize="small")
    return figure


def _differences(frozen: Frozen, parameters: dict[str, Any], raws: np.ndarray, targets: np.ndarray) -> Image.Image:
    """Draws samples by default and in the worst case, each with its prediction, and their difference around gray."""
    processings = {"default": frozen.default, "worst": {name: np.array(value) for name, value in parameters.items()}}
    images = {name: frozen.pipeline(values)(raws) for name, values in processings.items()}
    logits = {name: jax.device_get(frozen.logits(each, frozen.rest)) for name, each in images.items()}
    images = jax.device_get(images)
    pictures = {}
    for number, target in enumerate(targets):
        for name in processings:
            picture, words = frozen.task.judged(images[name][number], logits[name][number], target)
            pictures[f"{number} {name}: {words}"] = picture
        difference = 0.5 + (images["worst"][number] - images["default"][number]) / 2
        pictures[f"{number} difference"] = difference
    return contact_sheet(pictures, columns=3)
