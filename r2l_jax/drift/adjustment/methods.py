"""The methods of adaptation, and the baseline that they have to beat: each makes another model of a drifted one."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

import isp
from r2l_jax.drift.adjustment.config import ALL_STATISTICS, BY_FEATURES, BY_LABELS, METHODS, AdaptationSettings
from r2l_jax.drift.adjustment.drifts import Drifted, free_parameters
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import gains
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.drift.watch import notice, reference
from r2l_jax.model.mending import Mended, mend, replaced
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.runtime.result import SCORE, Cell, Column, Table
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.run import Run

# The exposures that searches start at, in stops: by labels alone, the first ones; without labels, the nearest ones.
STOPS = (0, 1, 2, 3, 4, 5, 6, -1, -2)
_BY_LABELS_ALONE, _NEAREST = 6, 3

# The price of parameters that move as no single cause of a camera would move them, see `ranges.apart`.
_PRICE = 1.0

_NO_SEARCH = "no search"


class Searched(NamedTuple):
    """Searches over the processing.

    Attributes:
        objective: the objective, in words.
        found: their ends by their starts.
        table: the numbers of each end, of which the chosen one is marked.
    """

    objective: str
    found: Mapping[str, Found]
    table: Table


class Tried(NamedTuple):
    """The models that the baseline and the methods make, by the rows of tables; the last one is the result.

    Attributes:
        models: the models.
        statistics: how the statistics of the result were mixed; None without unlabeled images, or if these were
            refused.
        refusal: why the unlabeled images were not used, if they were not.
        searched: the searches of the result, if it made any.
    """

    models: Mapping[str, RawToLogit]
    statistics: str | None
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
        models[ALL_STATISTICS] = adaptation.replaced()
        mended = adaptation.mend(under.pipeline)
        refusal = None if settings.force else mended.refusal or adaptation.unnoticed()
        mended = None if refusal else mended
    for method in settings.methods:
        if method == "processing" and mended is not None:
            mended, searched = adaptation.by_features(mended)
        model = under.model if mended is None else mended.model
        if method == "labels":
            model, searched = adaptation.by_labels(model, goes_on=mended is not None)
        models[METHODS[method]] = model
    return Tried(models, mended and mended.description, refusal, searched)


class _Adaptation:
    """Adapts a model under a drift."""

    def __init__(self, settings: AdaptationSettings, fold: Artifact, under: Drifted):
        self._settings, self._fold, self._under = settings, fold, under
        self._group = free_parameters(settings.parameters, under.pipeline)
        self._raws = np.zeros(0, np.float32)
        if len(under.unlabeled):
            self._raws, _ = under.dataset.samples(under.unlabeled)

    def replaced(self) -> RawToLogit:
        """Replaces the model's statistics with those of the unlabeled images."""
        return replaced(self._under.model, self._raws, self._fold.task)

    def mend(self, pipeline: isp.Pipeline) -> Mended:
        """Mixes statistics for the images that a pipeline makes."""
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
        new = Run([dataclasses.replace(fold, load_model=lambda: under.model)])
        return notice.unnoticed(new, self._raws, lambda: reference.make(Run([fold.measuring(clean)])))

    def by_features(self, statistics: Mended) -> tuple[Mended, Searched]:
        """Searches for the processing that brings the features' statistics back to those of the training.

        The searches start from the exposures of the smallest distances. Statistics are mixed at each end.
        """
        frozen, settings = Frozen(self._under.model, self._fold.task), self._settings
        searcher = Searcher(
            direction="best",
            objective="features",
            price=_PRICE,
            learning_rate=BY_FEATURES.step_size,
            batch_size=settings.batch_size,
        )
        # The searches get no labels.
        samples = self._raws, np.zeros(len(self._raws), np.int32)
        stops = self._stops(STOPS)
        distances = searcher.losses(frozen, [self._exposed(2.0**each) for each in stops], *samples)
        stops = [stops[place] for place in sorted(np.argsort(distances, stable=True)[:_NEAREST])]
        found = self._found(searcher, frozen, stops, samples, settings.steps or BY_FEATURES.steps)
        distances = searcher.losses(frozen, [frozen.default, *(one.parameters for one in found.values())], *samples)
        mended = [statistics, *(self.mend(self._under.pipeline.with_values(one.parameters)) for one in found.values())]
        certainties = [one.certainty for one in mended]
        chosen = choose(distances.tolist(), certainties)
        columns = [Column("distance of features", format=".4f"), Column("certainty", format=".4f")]
        table = _ends(columns, found, zip(distances.tolist(), certainties, strict=True), chosen)
        return mended[chosen], Searched("distance of the features", found, table)

    def by_labels(self, model: RawToLogit, goes_on: bool) -> tuple[RawToLogit, Searched]:
        """Searches for the processing of the lowest task loss of the labeled images.

        It goes on from the processing of a model that knows images of the drift; otherwise, searches start from several
        exposures. The statistics stay: to mix them after the search as well cost accuracy on average.
        """
        settings, under, task = self._settings, self._under, self._fold.task
        frozen, stops = Frozen(model, task), (0,) if goes_on else self._stops(STOPS[:_BY_LABELS_ALONE])
        searcher = Searcher(
            direction="best", price=_PRICE, learning_rate=BY_LABELS.step_size, batch_size=settings.batch_size
        )
        samples = under.dataset.samples(under.labeled)
        found = self._found(searcher, frozen, stops, samples, settings.steps or BY_LABELS.steps)
        # On few images a search may end where it is worse than no search, which is therefore a choice as well.
        ends = {_NO_SEARCH: frozen.default, **{start: one.parameters for start, one in found.items()}}
        models = {start: Model(model, values) for start, values in ends.items()}
        labeled, measured = (
            measure(models, [OWN], Samples(task, under.dataset, indices, settings.batch_size), title=title)
            for indices, title in ((under.labeled, "labeled images"), (under.samples, "other images"))
        )
        chosen = int(np.argmin([labeled.loss_of(start) for start in ends]))
        columns = [
            Column("loss of labeled images", format=".4f"),
            Column(f"{task.score} of labeled images", format=SCORE),
            Column(task.score, format=SCORE),
        ]
        numbers = ((labeled.loss_of(start), labeled.score(start), measured.score(start)) for start in ends)
        table = _ends(columns, found, numbers, chosen)
        pipeline = pipeline_of(model).with_values(list(ends.values())[chosen])
        return _with_pipeline(model, pipeline), Searched("task loss of labeled images", found, table)

    def _found(
        self,
        searcher: Searcher,
        frozen: Frozen,
        stops: Sequence[int],
        samples: tuple[np.ndarray, np.ndarray],
        steps: int,
    ) -> dict[str, Found]:
        """Searches from several exposures, and returns the ends by their names."""
        searches = [Search(self._group, 0.0, self._settings.seed, exposure=2.0**each) for each in stops]
        found = searcher.run(frozen, searches, *samples, steps)
        return {f"{each:+d} stops": one for each, one in zip(stops, found, strict=True)}

    def _stops(self, stops: Sequence[int]) -> Sequence[int]:
        return stops if gains(self._under.pipeline.facts, self._group) else (0,)

    def _exposed(self, factor: float) -> dict[str, np.ndarray]:
        """Returns the values of all parameters with a factor on the gains that may move."""
        facts, default = self._under.pipeline.facts, jax.device_get(self._under.pipeline.parameters())
        offsets = {name: np.float32(np.log(factor)) for name in gains(facts, self._group)}
        return {**default, **jax.device_get(ranges.valid_values(facts, default, offsets))}


def choose(distances: Sequence[float], certainties: Sequence[float]) -> int:
    """Chooses the end, or no search (the first), at which the model is most certain.

    An end that is farther than no search has gone astray: the features look less as in training.
    """
    return int(np.argmax(np.where(np.array(distances) <= distances[0], certainties, -np.inf)))


def _ends(
    columns: Sequence[Column], found: Mapping[str, Found], numbers: Iterable[Sequence[Cell]], chosen: int
) -> Table:
    """Makes the table of the ends of searches, no search first, with a mark at the chosen one."""
    rows = [[start, *cells] for start, cells in zip((_NO_SEARCH, *found), numbers, strict=True)]
    rows[chosen][0] = f"{rows[chosen][0]} *"
    return Table("Ends of the searches", [Column("start"), *columns], rows, "* the chosen one")


def _with_pipeline(model: RawToLogit, pipeline: isp.Pipeline) -> RawToLogit:
    return RawToLogit(pipeline, model.normalizer, model.head)
