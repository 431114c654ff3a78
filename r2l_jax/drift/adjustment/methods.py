"""The adaptation methods and the baseline that they have to beat; each adapts a model under a drift."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

import isp
from r2l_jax.cli.flags import flat
from r2l_jax.data.groups import numbered
from r2l_jax.drift.adjustment.config import ALL_STATISTICS, BY_FEATURES, BY_LABELS, METHODS, MethodSettings
from r2l_jax.drift.adjustment.drifts import Drifted, free_parameters
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Outcomes, Samples, measure
from r2l_jax.drift.monitoring import reference
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import gains, valid_values
from r2l_jax.drift.search.searcher import Found, Objective, Search, Searcher
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import Adapted, adapt, replaced
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.results.result import SCORE, Cell, Column, Table
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run

# The exposures at which searches start, in stops: with labels alone, one of the first few; without labels, the few
# whose features are nearest to those of training.
STOPS = (0, 1, 2, 3, 4, 5, 6, -1, -2)
_BY_LABELS_ALONE, _NEAREST = 6, 3

# The weight of the penalty on changes that no single drift of a camera would make, see `ranges.apart`.
_PRICE = 1.0

_NO_SEARCH = "no search"

# The most folds of the labeled images, and the level of the test of whether a search raises their score.
_FOLDS, _LEVEL = 8, 0.05


class Searched(NamedTuple):
    """Searches over the processing: their objective in words, the ends by their starts, and a table of the ends.

    `note` says why no end was chosen, if so.
    """

    objective: str
    found: Mapping[str, Found]
    table: Table
    note: str | None = None


class Tried(NamedTuple):
    """The adapted models of the baseline and the methods, by the rows of tables; the last one is the result.

    `statistics` says how the statistics of the result were mixed, and `refusal` why the unlabeled images were not used.
    `searched` has the last searches. Each may be None.
    """

    models: Mapping[str, RawToLogit]
    statistics: str | None
    refusal: str | None
    searched: Searched | None


def try_all(settings: MethodSettings, fold: Trained, under: Drifted) -> Tried:
    """Adapts a model by the baseline and by the methods that the settings name."""
    raws = under.dataset.samples(under.unlabeled)[0] if len(under.unlabeled) else np.zeros(0, np.float32)
    adaptation = _Adaptation(settings, fold, under.model, raws)
    models, adapted, refusal, searched = {}, None, None, None
    if settings.unlabeled:
        models[ALL_STATISTICS] = replaced(under.model, raws, fold.task)
        adapted = adaptation.mixed(under.pipeline)
        refusal = None if settings.force else adapted.refusal or _unnoticed(fold, under, raws)
        adapted = None if refusal else adapted
    for method in settings.methods:
        if method == "processing" and adapted is not None:
            adapted, searched = adaptation.by_features(adapted)
        model = under.model if adapted is None else adapted.model
        if method == "labels":
            model, searched = adaptation.by_labels(under, model, goes_on=adapted is not None)
        models[METHODS[method]] = model
    return Tried(models, adapted and adapted.description, refusal, searched)


def tuned(run: Run, raws: np.ndarray, settings: MethodSettings) -> Run:
    """Adapts all models of a run to raw images without labels: tunes the processing, and mixes statistics.

    Raises an InputError unless the images are a mixture of the training classes, or `settings.force` is set.
    """
    run.check_parameters()
    raws, folds = run.unlabeled(raws), []
    for fold in run.folds:
        adaptation = _Adaptation(settings, fold, fold.model, raws)
        mixed = adaptation.mixed(pipeline_of(fold.model))
        if mixed.refusal and not settings.force:
            raise InputError(f"{fold.folder} cannot be adapted: {mixed.refusal}")
        found, _ = adaptation.by_features(mixed)
        origin = {"run": str(fold.folder), "by": f"processing, and {found.description}", "settings": flat(settings)}
        folds.append(fold.adapted(found.model, origin, adaptation=found))
    return Run(folds)


def _unnoticed(fold: Trained, under: Drifted, raws: np.ndarray) -> str | None:
    """Returns a message if no drift is detected in the unlabeled images, else None; see `reference.unnoticed`.

    Training images are compared with other training images, because a model may distinguish these from images that
    it has never seen.
    """
    clean = fold.measured_indices
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        clean = np.setdiff1d(fold.split.train, under.unlabeled)
    new = Run([dataclasses.replace(fold, model=under.model)])
    groups = under.dataset.groups_of(under.unlabeled)
    return reference.unnoticed(new, np.asarray(raws), lambda: reference.make(Run([fold.measuring(clean)])), groups)


class _Adaptation:
    """Adapts a model to raw images without labels, or to a few with labels."""

    def __init__(self, settings: MethodSettings, fold: Trained, model: RawToLogit, raws: np.ndarray):
        self._settings, self._fold, self._model, self._raws = settings, fold, model, raws
        self._group = free_parameters(settings.parameters, pipeline_of(model))

    def mixed(self, pipeline: isp.Pipeline) -> Adapted:
        """Mixes the statistics for a pipeline's images."""
        model = self._model.processed_by(pipeline)
        return adapt(model, self._raws, self._fold.task, self._fold.about.score, self._fold.clean)

    def by_features(self, statistics: Adapted) -> tuple[Adapted, Searched]:
        """Searches for the processing that brings the features' statistics back to the training statistics.

        The searches start from the exposures with the smallest distances. Statistics are mixed again at each end.
        """
        frozen, searcher = Frozen(self._model, self._fold.task), self._searcher("features", BY_FEATURES)
        # The searches get no labels.
        samples = self._raws, np.zeros(len(self._raws), np.int32)
        starts = self._found(searcher, frozen, STOPS, samples, 0)
        distances = searcher.losses(frozen, [one.parameters for one in starts.values()], *samples)
        nearest = sorted(np.argsort(distances, stable=True)[:_NEAREST])
        found = self._found(searcher, frozen, [STOPS[place] for place in nearest], samples, BY_FEATURES[0])
        distances = searcher.losses(frozen, [frozen.default, *(one.parameters for one in found.values())], *samples)
        ends = [pipeline_of(self._model).with_values(one.parameters) for one in found.values()]
        mixed = [statistics, *map(self.mixed, ends)]
        information = [one.mutual_information for one in mixed]
        chosen = choose(distances.tolist(), information)
        columns = [Column("feature distance", format=".4f"), Column("mutual information", format=".4f")]
        table = _ends(columns, found, zip(distances.tolist(), information, strict=True), chosen)
        return mixed[chosen], Searched("feature distance", found, table)

    def by_labels(self, under: Drifted, model: RawToLogit, goes_on: bool) -> tuple[RawToLogit, Searched]:
        """Searches for the processing with the lowest task loss on the labeled images, if held-out labels confirm it.

        The search starts from the exposure with the lowest loss, and is repeated without each of a few folds of the
        labeled images, which keep groups together. Each fold's images judge only the search that left them out, by the
        score: the loss of 64 images fell while the model became worse. See `confirmed`.

        With `goes_on`, the search continues from the processing of a model that was adapted without labels. The
        statistics are kept, since mixing them again after the search cost accuracy on average.
        """
        task, labeled = self._fold.task, under.labeled
        frozen, stops = Frozen(model, task), STOPS[: 1 if goes_on else _BY_LABELS_ALONE]
        searcher, samples = self._searcher("task", BY_LABELS), under.dataset.samples(labeled)

        def measured(ends: Iterable[Mapping[str, np.ndarray]], indices: np.ndarray) -> Outcomes:
            models = {f"{place}": Model(model, values) for place, values in enumerate(ends)}
            return measure(models, [CLEAN], Samples(task, under.dataset, indices, self._settings.batch_size))

        groups = numbered(under.dataset.groups_of(labeled).tolist())
        count = int(groups.max()) + 1
        folds = np.array_split(np.arange(count), min(_FOLDS, count))
        folds = [np.flatnonzero(np.isin(groups, fold)) for fold in folds]
        sizes = np.array([[len(fold)] for fold in folds])
        starts = self._found(searcher, frozen, stops, samples, 0)
        begun = [one.parameters for one in starts.values()]
        losses = sizes * [measured(begun, labeled[fold]).loss[:, 0] for fold in folds]
        # The starts without each fold, and of all.
        places = [*(losses.sum(0) - losses).argmin(1), losses.sum(0).argmin()]
        searches = [
            Search(
                self._group,
                0.0,
                self._settings.seed,
                exposure=2.0 ** stops[place],
                left_out=(*map(int, fold),) if count > 1 else (),
            )
            for place, fold in zip(places, [*folds, ()], strict=True)
        ]
        found = searcher.run(frozen, searches, *samples, self._settings.steps or BY_LABELS[0])
        paths = [
            [frozen.default, begun[place], _halfway(frozen, begun[place], one.parameters), one.parameters]
            for place, one in zip(places, found, strict=True)
        ]
        judged = [measured(path, labeled[fold]) for path, fold in zip(paths, folds, strict=False)]
        held_out = np.array([[*map(each.score, each.models)] for each in judged])
        chosen = confirmed(held_out, sizes[:, 0])
        start = [*starts][places[-1]]
        others = measured(paths[-1], under.samples)
        numbers = zip(np.average(held_out, 0, sizes[:, 0]).tolist(), map(others.score, others.models), strict=True)
        columns = [Column(f"{task.score.name} on held-out labels", format=SCORE), Column(task.score.name, format=SCORE)]
        table = _ends(columns, (start, "half of the search", "search"), numbers, chosen)
        note = None
        if not chosen:
            of_groups = f" of {count} group{'s' * (count > 1)}" if count < len(labeled) else ""
            note = f"The labels were not used: {len(labeled)}{of_groups} are too few to tell whether a search helps."
        pipeline = pipeline_of(model).with_values(paths[-1][chosen])
        return model.processed_by(pipeline), Searched("task loss on labeled images", {start: found[-1]}, table, note)

    def _searcher(self, objective: Objective, steps: tuple[int, float]) -> Searcher:
        size = self._settings.batch_size
        return Searcher(direction="best", objective=objective, price=_PRICE, learning_rate=steps[1], batch_size=size)

    def _found(
        self,
        searcher: Searcher,
        frozen: Frozen,
        stops: Sequence[int],
        samples: tuple[np.ndarray, np.ndarray],
        steps: int,
    ) -> dict[str, Found]:
        """Searches from several exposures, or only the default if no gain is free; returns the ends by their starts."""
        stops = stops if gains(frozen.declarations, self._group) else (0,)
        searches = [Search(self._group, 0.0, self._settings.seed, exposure=2.0**each) for each in stops]
        found = searcher.run(frozen, searches, *samples, steps and (self._settings.steps or steps))
        return {f"{each:+d} stops": one for each, one in zip(stops, found, strict=True)}


def choose(distances: Sequence[float], information: Sequence[float]) -> int:
    """Chooses the end, or no search (the first), at which the mutual information is greatest.

    Ends farther from training than no search are left out, since their features look less like training.
    """
    return int(np.argmax(np.where(np.array(distances) <= distances[0], information, -np.inf)))


def confirmed(scores: np.ndarray, sizes: np.ndarray) -> int:
    """Chooses an end, or no search (the first), by the scores `(K, E)` of K folds of these sizes that it left out.

    Ends count whose score is higher than without a search in a paired one-sided t-test over the folds. Of these, the
    one with the highest score is chosen, and the first of equals, which changes least.
    """
    gained = scores - scores[:, :1]
    mean, count = np.average(gained, 0, sizes), len(scores)
    least = stats.t.ppf(1 - _LEVEL, count - 1) * gained.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.inf
    return int(np.where(mean > least, mean, 0).argmax())


def _halfway(frozen: Frozen, start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Computes the values in the middle between a start and an end, in offsets."""
    offsets = {name: each.offset(start[name], end[name]) / 2 for name, each in frozen.declarations.items()}
    return jax.device_get(valid_values(frozen.declarations, start, offsets))


def _ends(columns: Sequence[Column], found: Iterable[str], numbers: Iterable[Sequence[Cell]], chosen: int) -> Table:
    """Makes a table of the ends of searches, which begins with no search and marks the chosen end."""
    rows = [[start, *cells] for start, cells in zip((_NO_SEARCH, *found), numbers, strict=True)]
    rows[chosen][0] = f"{rows[chosen][0]} *"
    return Table("Ends of the searches", [Column("start"), *columns], rows, "* chosen")
