"""The methods of adaptation, and the baseline that they have to beat: each makes another model of a drifted one."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

import isp
from r2l_jax.drift.adjustment.config import BASELINE, BY_FEATURES, BY_LABELS, FEW, STOPS, AdaptationSettings
from r2l_jax.drift.adjustment.drifts import Drifted, free_parameters
from r2l_jax.drift.results import Start
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.ranges import gains
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.drift.watch import notice, reference
from r2l_jax.model.mending import Mended, mend, replaced
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Searched:
    """Searches over the processing.

    Attributes:
        stops: the exposures that they started from.
        found: their ends.
        starts: the numbers of each end, that of no search first.
        chosen: the place of the chosen one of `starts`.
    """

    stops: Sequence[int]
    found: Sequence[Found]
    starts: Sequence[Start]
    chosen: int


@dataclasses.dataclass(frozen=True)
class Tried:
    """The models that the baseline and the methods make, by name in this order; the last one is the result.

    Attributes:
        models: the models.
        mended: the statistics of the result; None without unlabeled images, or if these were refused.
        refusal: why the unlabeled images were not used, if they were not.
        searched: the searches of the result, if it made any.
    """

    models: Mapping[str, RawToLogit]
    mended: Mended | None
    refusal: str | None
    searched: Searched | None


def try_all(settings: AdaptationSettings, fold: Artifact, under: Drifted) -> Tried:
    """Makes the models of the baseline and of the methods that the settings name.

    Raises:
        InputError: a search has diverged.
        Interrupted: a signal has asked to stop.
    """
    adaptation = _Adaptation(settings, fold, under)
    models, mended, refusal, searched = {}, None, None, None
    if settings.unlabeled:
        models[BASELINE] = adaptation.replaced()
        mended = adaptation.mend(pipeline_of(under.model))
        refusal = None if settings.force else mended.refusal or adaptation.unnoticed()
        mended = None if refusal else mended
    for method in settings.methods:
        if method == "processing" and mended is not None:
            mended, searched = adaptation.by_features(mended)
        models[method] = under.model if mended is None else mended.model
        if method == "labels":
            models[method], searched = adaptation.by_labels(mended)
    return Tried(models, mended, refusal, searched)


class _Adaptation:
    """Adapts a model under a drift."""

    def __init__(self, settings: AdaptationSettings, fold: Artifact, under: Drifted):
        self._settings, self._fold, self._under = settings, fold, under
        self._group = free_parameters(settings.parameters, under.pipeline)
        self._pipeline = under.pipeline
        self._raws = np.zeros(0, np.float32)
        if len(under.unlabeled):
            self._raws, _ = under.dataset.samples(under.unlabeled)

    def replaced(self) -> RawToLogit:
        """Replaces the model's statistics with those of the unlabeled images."""
        return replaced(self._under.model, self._raws, self._fold.task)

    def mend(self, pipeline: isp.Pipeline) -> Mended:
        """Mends the model's statistics for the images that a pipeline makes."""
        model = _with_pipeline(self._under.model, pipeline)
        return mend(model, self._raws, self._fold.task, self._fold.about.score, self._fold.clean)

    def unnoticed(self) -> str | None:
        """Says that no drift is noticed in the unlabeled images, see `notice.unnoticed`.

        Images of the training are compared with others of the training: a model may tell these from images that it has
        never seen.
        """
        fold, under = self._fold, self._under
        clean = fold.measured_indices
        if under.dataset.fingerprint == fold.dataset.fingerprint:
            own_scenes = under.dataset.samples_of(under.unlabeled // under.dataset.per_scene)
            clean = np.setdiff1d(fold.train_indices, own_scenes)
        known, new = _run_of(fold.measuring(clean), fold.model.on_one_device()), _run_of(fold, under.model)
        return notice.unnoticed(new, self._raws, lambda: reference.make(known))

    def by_features(self, statistics: Mended) -> tuple[Mended, Searched]:
        """Searches for the processing that brings the features' statistics back to those of the training.

        The searches start from the exposures of the smallest distances. Statistics are mended at each end.
        """
        settings = self._settings.searching(BY_FEATURES)
        frozen = Frozen(self._under.model, self._fold.task)
        options = {"objective": "features", "price": self._settings.price, "batch_size": self._settings.batch_size}
        searcher = Searcher(direction="best", learning_rate=settings.step_size, **options)
        # The searches get no labels.
        samples = self._raws, np.zeros(len(self._raws), np.int32)
        stops = self._stops(STOPS)
        distances = searcher.losses(frozen, [self._exposed(2.0**each) for each in stops], *samples)
        nearest = np.argsort(distances, stable=True)[: min(FEW, self._settings.starts)]
        stops = [stops[place] for place in sorted(nearest)]
        searches = [Search(self._group, 0.0, self._settings.seed, exposure=2.0**each) for each in stops]
        found = searcher.run(frozen, searches, *samples, settings.steps)
        ends = [frozen.default, *(one.parameters for one in found)]
        distances = searcher.losses(frozen, ends, *samples)
        mended = [statistics, *(self.mend(frozen.pipeline(one.parameters)) for one in found)]
        starts = [
            Start(each, distance=float(distance), certainty=one.certainty)
            for each, distance, one in zip((None, *stops), distances, mended, strict=True)
        ]
        chosen = choose(distances.tolist(), [one.certainty for one in mended])
        return mended[chosen], Searched(stops, found, starts, chosen)

    def by_labels(self, statistics: Mended | None) -> tuple[RawToLogit, Searched]:
        """Searches for the processing of the lowest task loss of the labeled images.

        For a mended model, which knows images of the drift, the search starts from its own processing; otherwise, from
        several exposures. The statistics stay: to mend them after the search as well cost accuracy on average.
        """
        settings, under = self._settings.searching(BY_LABELS), self._under
        model = under.model if statistics is None else statistics.model
        frozen = Frozen(model, self._fold.task)
        stops = self._stops(STOPS[: self._settings.starts]) if statistics is None else (0,)
        options = {"price": self._settings.price, "batch_size": self._settings.batch_size}
        searcher = Searcher(direction="best", learning_rate=settings.step_size, **options)
        searches = [Search(self._group, 0.0, self._settings.seed, exposure=2.0**each) for each in stops]
        samples = under.dataset.samples(under.labeled)
        found = searcher.run(frozen, searches, *samples, settings.steps)
        # On few images a search may end where it is worse than no search, which is therefore a choice as well.
        ends = [frozen.default, *(one.parameters for one in found)]
        measurer = Measurer(frozen)
        on_labeled, on_measured = (
            measurer.measure_samples(ends, under.dataset, indices, self._settings.batch_size, title)
            for indices, title in ((under.labeled, "labeled images"), (under.samples, "other images"))
        )
        starts = [
            Start(each, labeled.loss, labeled.score, measured.score)
            for each, labeled, measured in zip((None, *stops), on_labeled, on_measured, strict=True)
        ]
        chosen = int(np.argmin([measured.loss for measured in on_labeled]))
        return _with_pipeline(model, frozen.pipeline(ends[chosen])), Searched(stops, found, starts, chosen)

    def _stops(self, stops: Sequence[int]) -> Sequence[int]:
        return stops if gains(self._pipeline.facts, self._group) else (0,)

    def _exposed(self, factor: float) -> dict[str, np.ndarray]:
        """Returns the values of all parameters with a factor on the gains that may move."""
        default = jax.device_get(self._pipeline.parameters())
        offsets = {name: np.float32(np.log(factor)) for name in gains(self._pipeline.facts, self._group)}
        return {**default, **jax.device_get(ranges.valid_values(self._pipeline.facts, default, offsets))}


def choose(distances: Sequence[float], certainties: Sequence[float]) -> int:
    """Chooses the end, or no search (the first), at which the model is most certain.

    An end that is farther than no search has gone astray: the features look less as in training.
    """
    return int(np.argmax(np.where(np.array(distances) <= distances[0], certainties, -np.inf)))


def _with_pipeline(model: RawToLogit, pipeline: isp.Pipeline) -> RawToLogit:
    return RawToLogit(pipeline, model.normalizer, model.head)


def _run_of(fold: Artifact, model: RawToLogit) -> Run:
    """Returns a run of a fold with another model."""
    return Run([dataclasses.replace(fold, load_model=lambda: model)])
