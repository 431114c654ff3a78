"""Worst cases: which parameters of a processing break a model, and how far from the default they must move."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

import isp
from isp.published import ADDITIVE_LAYER, additive_layer_stage
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.drift import results
from r2l_jax.drift.analysis import Analysis, FoldAnalysis
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, knobs_of, turned
from r2l_jax.drift.search.measure import Measured, Measurer
from r2l_jax.drift.search.ranges import tuned
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.build import image_size
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact

# The standard deviation of random starts around the default, in natural ranges: too small to be seen, large enough that
# searches take different ways.
_SPREAD = 0.02

# How far the sweep before the searches moves each knob alone, in natural ranges, and the most samples it measures.
_SWEPT, _SWEPT_SAMPLES = tuple(sign * 0.03 * 2**step for step in range(5) for sign in (-1, 1)), 64

# The group, the weight and the number of the start of a search.
Key = tuple[str, float, int]

# The end of a search, and the numbers of the model there.
Result = tuple[Found, Measured]


class _Swept(NamedTuple):
    """A point at which one knob is moved alone: all parameters, the loss there, and the distance to the default."""

    knob: Knob
    position: float
    parameters: dict[str, np.ndarray]
    loss: float
    deviation: float


@dataclasses.dataclass(frozen=True)
class WorstCaseAnalysis(FoldAnalysis):
    """Searches for the worst processing of a fold, and measures the model under it on the measured samples.

    Batches are drawn from the fold's training samples. The start that ends worst on the measured samples counts, not
    the mean of the starts.

    The price of deviation keeps some searches at the default although a small shift of one value costs points. So the
    second start is the worst point of a sweep that moves each knob alone, and counts itself where the search from it
    ends better. Only points whose price is at most the loss of a guess are taken.

    Attributes:
        settings: the searches.
        batch_size: samples in a step of one search, and at once.
        seed: the seed of samples, starts and batches.
    """

    settings: WorstCaseSettings
    batch_size: int
    seed: int
    name = "worst_case"
    needs_gradient = True

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that the results depend on."""
        return {**flat(self.settings), "batch_size": self.batch_size, "seed": self.seed}

    def check_fold(self, fold: Artifact) -> None:
        """Raises an InputError unless the fold can be analyzed, and its processing has the groups of parameters."""
        super().check_fold(fold)
        self.searches(pipeline_of(self.searched(fold)))

    def work(self, fold: Artifact) -> str:
        """Says how many searches there are and, if the training was timed, about how long they take.

        A step of a search takes about as long as a step of the training with as many samples.
        """
        count, steps = len(self.searches(pipeline_of(self.searched(fold)))), self.settings.steps
        words = f"{count} search{'es' * (count > 1)} of {steps} steps"
        seconds = [row["seconds"] for row in fold.metrics.get("history", ())]
        if not seconds or not fold.config.optimization.epochs:
            return words
        samples = count * steps * min(self.batch_size, len(self.drawn(fold)))
        expected = min(seconds) / len(fold.train_indices) * samples
        return f"{words} (about {tqdm.format_interval(expected)} if a step takes as long as in training)"

    def drawn(self, fold: Artifact) -> np.ndarray:
        """Returns the training samples that batches are drawn from."""
        shuffled = np.random.default_rng(self.seed).permutation(fold.train_indices)
        return shuffled[: self.settings.samples]

    def searched(self, fold: Artifact) -> RawToLogit:
        """Returns the model to search: the fold's, with an additive layer after its pipeline if that is asked for."""
        pipeline = pipeline_of(fold.model)
        if not self.settings.adv_noise_layer or ADDITIVE_LAYER in pipeline.facts:
            return fold.model
        if ADDITIVE_LAYER in pipeline.stage_names:
            flag = fold.config.processing.flag
            raise InputError(f"--adv_noise_layer: {flag} has a stage {ADDITIVE_LAYER} of its own")
        layer = additive_layer_stage(image_size(pipeline, fold.dataset.shape))
        pipeline = pipeline.inserted(layer, after=pipeline.stage_names[-1])
        return RawToLogit(pipeline, fold.model.normalizer, fold.model.head)

    def searches(self, pipeline: isp.Pipeline) -> dict[Key, Search]:
        """Makes the searches for a pipeline: every group, under every weight, from every start.

        A group is "all" parameters or a single one. By default, the groups are "all" and each parameter that is tuned
        by hand.

        Raises:
            InputError: the pipeline has no parameter of a group's name.
        """
        names, settings = self.settings.adv_parameters, self.settings
        parameters = tuple(pipeline.parameters())
        known = {"all": parameters, **{name: (name,) for name in parameters}}
        for name in names:
            if name not in known:
                hint = "; give --adv_noise_layer as well" if name == ADDITIVE_LAYER else ""
                raise InputError(f"--adv_parameters must be one of {', '.join(known)}, got {name!r}{hint}")
        groups = names or ("all", *tuned(pipeline.facts))
        return {
            (group, weight, start): Search(
                known[group], weight, seed=self.seed + start, spread=_SPREAD if start else 0.0
            )
            for group, weight, start in itertools.product(groups, settings.adv_aux_weight, range(settings.starts))
        }

    def analyze(self, fold: Artifact, done: Mapping[str, Any]) -> Analysis:
        """Searches for the worst cases; the content is a `results.WorstCases`.

        Raises:
            InputError: a search has diverged.
        """
        settings, task = self.settings, fold.task
        frozen = Frozen(self.searched(fold), task)
        searches, measurer = self.searches(frozen.pipeline(frozen.default)), Measurer(frozen)
        swept = self.sweep(fold, frozen, measurer) if settings.starts > 1 else []
        begun = self._begun(searches, swept, math.log(max(task.outputs, 2)))
        searches |= {
            key: searches[key]._replace(spread=0.0, turned=(each.knob.name, each.position))
            for key, each in begun.items()
        }
        searcher = Searcher(
            direction="worst",
            aux_loss=settings.adv_aux_loss,
            learning_rate=settings.step_size,
            batch_size=self.batch_size,
        )
        samples = loader.batch_of(fold.dataset, self.drawn(fold))
        ends = searcher.run(frozen, list(searches.values()), samples["raw"], samples["target"], settings.steps)
        tried = list(zip(searches, ends, strict=True))
        for key, each in begun.items():
            tried.append((key, dict(tried)[key]._replace(parameters=each.parameters)))
        processings = [frozen.default, *(one.parameters for _, one in tried)]
        default, *measured = measurer.measure_samples(
            processings, fold.dataset, fold.measured_indices, self.batch_size, "worst cases"
        )
        found: dict[Key, Result] = {}
        for (key, end), numbers in zip(tried, measured, strict=True):
            found[key] = min(found.get(key, (end, numbers)), (end, numbers), key=_order)
        rows = _rows(default, found)
        pictures: dict[str, Figure | Image.Image] = {"curves": _curves(found)}
        if settings.adv_track_differences:
            shown: Batch = jax.tree.map(lambda leaf: leaf[: settings.track_n_images], samples)
            pictures |= {
                group: _differences(frozen, worst.parameters, shown) for group, worst in results.worst(rows).items()
            }
        content = results.WorstCases(task.score, results.Default(default.score, default.loss), rows)
        return Analysis(results.plain(content), _table(content), pictures)

    def sweep(self, fold: Artifact, frozen: Frozen, measurer: Measurer) -> list[_Swept]:
        """Moves each knob of the searched parameters alone, and returns the points that raise the loss."""
        pipeline, samples = frozen.pipeline(frozen.default), self.drawn(fold)
        searched = {name for search in self.searches(pipeline).values() for name in search.group}
        knobs = knobs_of(frozen.facts, {name: frozen.default[name] for name in frozen.facts}).values()
        points = [(knob, each) for knob in knobs if knob.parameter in searched for each in _SWEPT]
        processings = [frozen.default, *(turned(frozen.facts, frozen.default, [point]) for point in points)]
        default, *measured = measurer.measure_samples(
            processings, fold.dataset, samples[:_SWEPT_SAMPLES], self.batch_size, "sweep"
        )
        summed = 1
        if self.settings.adv_aux_loss == "l2_sum":
            summed = 3 * math.prod(image_size(pipeline, fold.dataset.shape)) * min(self.batch_size, len(samples))
        of_ssim = self.settings.adv_aux_loss == "ssim"
        return [
            _Swept(*point, values, one.loss, summed * (1 - one.ssim if of_ssim else one.square))
            for point, values, one in zip(points, processings[1:], measured, strict=True)
            if one.loss > default.loss
        ]

    def _begun(self, searches: Mapping[Key, Search], swept: Sequence[_Swept], most: float) -> dict[Key, _Swept]:
        """Returns the swept point of the greatest loss, among those of at most this price, for each second start."""
        begun = {}
        for (group, weight, start), search in searches.items():
            affordable = [
                each for each in swept if each.knob.parameter in search.group and weight * each.deviation <= most
            ]
            if start == 1 and affordable:
                begun[group, weight, start] = max(affordable, key=lambda each: each.loss)
        return begun


def _order(result: Result) -> tuple[float, float]:
    """Sorts results from the worst one: by the lowest score, and of equal scores by the greatest loss."""
    return result[1].score, -result[1].loss


def _rows(default: Measured, found: Mapping[Key, Result]) -> list[results.WorstCase]:
    """Returns a row for each group and weight: the worst of its starts, and the range of the starts' scores."""
    rows = []
    for group, weight in dict.fromkeys((group, weight) for group, weight, _ in found):
        of_starts = [result for (*key, _), result in found.items() if key == [group, weight]]
        end, worst = min(of_starts, key=_order)
        scores = [measured.score for _, measured in of_starts]
        rows.append(
            results.WorstCase(
                group=group,
                aux_weight=weight,
                score=worst.score,
                drop=default.score - worst.score,
                loss=worst.loss,
                ssim=worst.ssim,
                spread=max(scores) - min(scores),
                parameters=end.parameters,
                task_loss=end.task_loss.tolist(),
                deviation=end.deviation.tolist(),
                change=worst.change,
                color=worst.color[0],
                color_95=worst.color[1],
            )
        )
    return rows


def _table(content: results.WorstCases) -> str:
    headings = ("worst case", "drop", "SSIM", "largest change", "CIEDE2000", "95%", "range of starts")
    rows = [["group", "weight", f"{content.score} default", *headings]]
    for row in content.rows:
        before = (content.default.score, row.score, row.drop, row.ssim, row.change)
        cells = [
            *(f"{number:.4f}" for number in before),
            f"{row.color:.1f}",
            f"{row.color_95:.1f}",
            f"{row.spread:.4f}",
        ]
        rows.append([row.group, f"{row.aux_weight:g}", *cells])
    return f"{table(rows)}\n{results.RANGE_OF_STARTS}"


def _curves(found: Mapping[Key, Result]) -> Figure:
    """Draws task loss and deviation over the steps, with a line for each search and a color for each group."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(group for group, _, _ in found))}
    both = figure.subplots(1, 2)
    for axes, name in zip(both, ("task_loss", "deviation"), strict=True):
        labels = set()
        for (group, _, _), (end, _) in found.items():
            label = None if group in labels else group
            axes.plot(getattr(end, name), color=colors[group], linewidth=0.8, label=label)
            labels.add(group)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    both[-1].legend(fontsize="small")
    return figure


def _differences(frozen: Frozen, parameters: dict[str, np.ndarray], samples: Batch[np.ndarray]) -> Image.Image:
    """Draws samples by default and in the worst case, each with its prediction, and their difference, scaled."""
    processings = {"default": frozen.default, "worst": parameters}
    images = {name: frozen.images(values, samples) for name, values in processings.items()}
    logits = {name: jax.device_get(frozen.logits(each)) for name, each in images.items()}
    images = jax.device_get(images)
    pictures = {}
    for number, target in enumerate(samples["target"]):
        for name in processings:
            picture, words = frozen.task.judged(images[name][number], logits[name][number], target)
            pictures[f"{number} {name}: {words}"] = picture
        difference = images["worst"][number] - images["default"][number]
        # A power of two, so that the factor is short; the few largest differences may be clipped.
        factor = 2.0 ** np.floor(-np.log2(max(2 * np.quantile(abs(difference), 0.99), 1 / 256)))
        pictures[f"{number} difference x {factor:g}"] = np.clip(0.5 + factor * difference, 0, 1)
    return contact_sheet(pictures, columns=3)
