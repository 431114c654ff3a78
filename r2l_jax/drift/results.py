"""The JSON files of the drift controls, as types that their writers build and their readers get."""

import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

import isp
from r2l_jax.drift.statistics import Difference, Interval, points
from r2l_jax.names import About
from r2l_jax.runtime.errors import InputError

# Tables sort by floats, where greater numbers would not be exact.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

Result = TypeVar("Result")


class Statistic(msgspec.Struct):
    """Mean and standard deviation over folds."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Computes the statistic of the folds' numbers."""
        return cls(float(np.mean(values)), float(np.std(values)))


class PartialStatistic(msgspec.Struct):
    """Mean and standard deviation over the folds that have a number; None if no fold has it."""

    mean: float | None
    std: float | None
    folds: list[float | None] = []

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "PartialStatistic":
        """Computes the statistic of the folds' numbers, of which some may be None."""
        known = Statistic.of(present) if (present := [value for value in values if value is not None]) else None
        return cls(known and known.mean, known and known.std, list(values))


class Estimate(msgspec.Struct):
    """A score or a difference of scores with its interval of 95%."""

    estimate: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval | Difference, least: float) -> "Estimate":
        """Takes an interval, whose ends stay between `least`, 0 for a score and -1 for a difference, and 1."""
        return cls(float(interval.estimate), max(float(interval.low), least), min(float(interval.high), 1.0))

    @property
    def points(self) -> str:
        """The estimate and its interval in hundredths, such as "12.3 (10.1 to 14.6)"."""
        return f"{points(self.estimate)} ({points(self.low)} to {points(self.high)})"


class Compared(Estimate):
    """An estimated difference, and the probability that it is positive."""

    probability: float


class Test(NamedTuple):
    """The numbers of a run in a case: score and loss, and the drop from the score on the run's own images."""

    group: str
    score: Statistic
    drop: Statistic
    loss: Statistic


class OfFolds(msgspec.Struct, kw_only=True):
    """A result of several folds, with the id of each fold's training."""

    training: dict[str, str] = {}

    @property
    def trainings(self) -> set[str | None]:
        """The ids of the trainings."""
        return {*self.training.values()} or {None}


class OfFold(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A result of one fold, with the id of its training and the identity of all that it depends on, once stored.

    `checkpoint` is the one of the model, which earlier versions did not record.
    """

    training: str | None = None
    identity: dict[str, Any] = {}
    checkpoint: str | None = None

    @property
    def trainings(self) -> set[str | None]:
        """The id of the training."""
        return {self.training}


class EvaluatedRun(OfFolds):
    """A run of an evaluation.json.

    Attributes:
        folder: the run's folder.
        processing_mode: the run's processing mode; None for a pipeline by name.
        pipeline: the title of the run's pipeline, if it has one.
        own: the cases that equal the images on which the run was trained.
        headline: the score on the own images, and the mean drops.
        tests: means and standard deviations over the folds, by case; one has the name of the score.
        folds: the numbers of each case, by fold.
    """

    folder: str
    processing_mode: str | None
    pipeline: str | None
    own: list[str]
    headline: dict[str, float | None]
    tests: dict[str, dict[str, Any]]
    folds: dict[str, Any]


class Drops(msgspec.Struct, kw_only=True):
    """Drops of a group of trainings or of a run alone, with intervals.

    Attributes:
        members: the names of the runs.
        about: whether intervals are about the recipe or about these models.
        samples: the number of samples, or of scenes if several samples show one.
        measured: which they are, such as "test samples" or "validation scenes".
        score: the score on the own images.
        groups: the mean drop in each group of cases.
        cases: the drop in each case that is not the own images.
        shares: the shares of members, cases, samples and the rest in the variance of the drops; None for one run.
        members_needed: how many members an interval of two points to both sides would take, by kind of drift; None if
            no number is enough.
        log_ratio: the logarithm of the drop under corruptions over that under pipelines, if asked for and known.
        ensemble: the numbers of the mean of the members' probabilities.
    """

    members: list[str]
    about: About
    samples: Count
    measured: str
    score: Estimate
    groups: dict[str, Estimate]
    cases: dict[str, Estimate]
    shares: dict[str, float] | None
    members_needed: dict[str, Count | None]
    log_ratio: Estimate | None = None
    ensemble: EvaluatedRun | None = None


class Differences(msgspec.Struct):
    """How much more the first of two groups of trainings, or runs, loses: paired differences of drops."""

    first: str
    second: str
    about: About
    groups: dict[str, Compared]
    cases: dict[str, Compared]


class ByShots(msgspec.Struct):
    """Groups of samples by a fact of their shots, and the cases in which they were tested."""

    rows: list[str]
    samples: list[Count]
    columns: list[str]


class Groups(ByShots):
    """The scores of groups in an evaluation: means and standard deviations over the folds."""

    mean: list[list[float]]
    std: list[list[float]]


class Evaluation(msgspec.Struct):
    """An evaluation.json, which evaluate.py writes.

    Attributes:
        score: the name of the score.
        headline: the mean of the runs' headlines.
        runs: the runs by name.
        matrices: for each group of cases but corruptions, the scores of all runs (rows) in all cases (columns).
            `corruptions` has the mean over the runs by corruption (rows) and severity (columns), and
            `corruptions_of_runs` the scores of all runs by corruption, each the mean over the `severities` that it
            names.
        by: the scores of groups of samples, by field of their shots.
        drops: the drops with intervals of each `--run`, a group of trainings or a run alone.
        differences: the first of them against each of the others that was measured on the same samples.
        flags: the settings of the evaluation.
    """

    score: str
    headline: dict[str, float | None]
    runs: dict[str, EvaluatedRun]
    matrices: dict[str, dict[str, Any]]
    by: dict[str, Groups]
    drops: dict[str, Drops] = {}
    differences: list[Differences] = []
    flags: dict[str, Any] = {}

    @property
    def trainings(self) -> set[str | None]:
        """The ids of the trainings that were tested."""
        return {training for run in self.runs.values() for training in run.trainings}

    def tests(self, label: str, where: pathlib.Path) -> dict[str, Test]:
        """Returns the numbers of a run by case.

        Raises:
            InputError: a case lacks a number.
        """
        return {
            name: Test(
                converted(test.get("group"), str, where),
                *(converted(test.get(key), Statistic, where) for key in (self.score, "drop", "loss")),
            )
            for name, test in self.runs[label].tests.items()
        }


class Mean(msgspec.Struct):
    """A mean of signed changes, and of their absolute values."""

    mean: float
    mean_absolute: float


class Change(msgspec.Struct):
    """The change of the loss when all values move in the worst directions, and when all move up."""

    worst: float
    together: Mean


class Changes(msgspec.Struct):
    """The changes of the loss of some samples."""

    samples: Count
    loss: float
    parameters: dict[str, Change]
    elements: dict[str, Mean]
    stages: dict[str, Change]


class NaturalRange(msgspec.Struct):
    """The natural range of a parameter or of images, also in words; no width stands for the value itself."""

    width: float | None
    stated: str


class Sensitivity(OfFold):
    """A sensitivity.json, which forensics.py writes."""

    unit: str
    moves: dict[str, str]
    caution: str
    ranges: dict[str, NaturalRange]
    overall: Changes
    by_class: dict[str, Changes]


class End(NamedTuple):
    """An end of a tolerated interval: its value, its bootstrap interval, and whether it is the knob's limit.

    `failing` is the nearest value beyond it at which a paired test finds the drop to exceed the tolerance, if any.
    """

    value: float
    interval: tuple[float, float]
    at_limit: bool
    failing: float | None


class Knob(msgspec.Struct):
    """The tolerated interval of a knob."""

    parameter: str
    quantity: str
    scale: Literal["linear", "log"]
    width: float | None
    value: float
    low: float
    low_interval: tuple[float, float]
    low_at_limit: bool
    high: float
    high_interval: tuple[float, float]
    high_at_limit: bool
    points: list[tuple[float, float]]
    low_failing: float | None = None
    high_failing: float | None = None

    def __post_init__(self):
        if self.scale == "linear" and not 0 < (self.width or 0) < math.inf:
            raise ValueError(f"a linear knob must have a positive width, got {self.width}")

    @property
    def ends(self) -> dict[str, End]:
        """Both ends by name."""
        return {
            "low": End(self.low, self.low_interval, self.low_at_limit, self.low_failing),
            "high": End(self.high, self.high_interval, self.high_at_limit, self.high_failing),
        }

    def away(self, value: float) -> float:
        """Computes the distance of a value from the default in natural ranges."""
        facts = isp.Parameter(None, scale=self.scale, width=self.width if self.scale == "linear" else None)
        return float(np.asarray(facts.offset(self.value, value)))


class KnobMap(msgspec.Struct):
    """The scores while two knobs move."""

    knobs: tuple[str, str]
    values: tuple[list[float], list[float]]
    scores: list[list[float]]
    tolerated: list[list[bool]]


class Tolerances(OfFold):
    """A tolerances.json, which forensics.py writes.

    Attributes:
        score: the name of the score.
        default: the score of the default rendering.
        tolerance: how far the score may fall below it.
        samples: the number of samples.
        pattern: the color filter array that the processing expects, if any.
        knobs: the interval of each knob.
        without_knobs: the number of values of each parameter that no knob moves.
        maps: the maps of two knobs that were asked for.
        samples_needed: how many samples show a drop of the tolerance at every end; None if all ends are at a limit.
    """

    score: str
    default: float
    tolerance: float
    samples: Count
    pattern: str | None
    knobs: dict[str, Knob]
    without_knobs: dict[str, Count]
    maps: list[KnobMap] = []
    samples_needed: Count | None = None


class WorstCase(msgspec.Struct):
    """The worst processing that a search has found.

    Attributes:
        change: the largest change of a pixel's channel from the default rendering; images are in [0, 1].
        color: the mean color difference CIEDE2000 of all pixels.
        color_95: its 95th percentile over the pixels of a sample, averaged over the samples.
    """

    group: str
    aux_weight: float
    score: float
    drop: float
    loss: float
    ssim: float
    spread: float
    parameters: dict[str, np.ndarray]
    task_loss: list[float]
    deviation: list[float]
    change: float | None = None
    color: float | None = None
    color_95: float | None = None

    @property
    def order(self) -> tuple[float, float]:
        """Sorts worst cases as forensics.py does: by the lowest score, then by the greatest loss."""
        return self.score, -self.loss


def worst(rows: Sequence[WorstCase]) -> dict[str, WorstCase]:
    """Returns the worst case of each group of parameters."""
    groups = dict.fromkeys(row.group for row in rows)
    return {group: min((row for row in rows if row.group == group), key=lambda row: row.order) for group in groups}


class Default(msgspec.Struct):
    """The numbers of the default rendering."""

    score: float
    loss: float


class WorstCases(OfFold):
    """A worst_case.json, which forensics.py writes."""

    score: str
    default: Default
    rows: list[WorstCase]


class ShotGroups(ByShots):
    """The scores of groups of a fold, by default and in the worst cases."""

    scores: list[list[float]]


class Shots(OfFold):
    """A shots.json, which forensics.py writes."""

    score: str
    fields: dict[str, ShotGroups]


class Spread(msgspec.Struct):
    """The median and the range of a number over the trainings that have it; None if no training has it."""

    median: float | None
    least: float | None
    greatest: float | None
    trainings: list[float | None]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Computes the spread of the trainings' numbers, of which some may be None."""
        known = [value for value in values if value is not None]
        if not known:
            return cls(None, None, None, list(values))
        return cls(float(np.median(known)), min(known), max(known), list(values))

    def text(self, write: Callable[[float], str]) -> str:
        """Returns the median with the range in parentheses, as a function writes each number."""
        if self.median is None or self.least is None or self.greatest is None:
            return "-"
        return f"{write(self.median)} ({write(self.least)} to {write(self.greatest)})"


class EndOfTrainings(msgspec.Struct):
    """An end of a knob's tolerated interval over trainings.

    Attributes:
        value: the end.
        away: its distance from the training's default in natural ranges.
        at_limit: how many trainings tolerate all values up to the limit.
        failing: the value at which a paired test finds the drop to exceed the tolerance.
    """

    value: Spread
    away: Spread
    at_limit: Count
    failing: Spread


class KnobOfTrainings(msgspec.Struct):
    """The tolerated interval of a knob over trainings."""

    quantity: str
    value: Spread
    ends: dict[Literal["low", "high"], EndOfTrainings]


class Forensics(OfFolds):
    """A forensics.json, which forensics.py writes for a group of trainings.

    Attributes:
        score: the name of the score.
        measured: "test" or "validation" samples.
        samples: their number, in one training.
        tolerance: how far the score may fall; None without tolerances.
        samples_needed: how many samples show a drop of the tolerance, see `Tolerances`.
        sensitivity: the worst change of the loss with each parameter and each image after a stage.
        tolerances: the interval of each knob.
        worst_case: for each group of parameters, the numbers of the worst case by the names of `WorstCase`.
    """

    score: str
    measured: str
    samples: Count
    tolerance: float | None
    samples_needed: Count | None
    sensitivity: dict[str, Spread]
    tolerances: dict[str, KnobOfTrainings]
    worst_case: dict[str, dict[str, Spread]]


def too_few(content: Tolerances | Forensics) -> list[str]:
    """Returns a line that states how many samples the tolerance takes, no line if there are enough."""
    needed, tolerance = content.samples_needed, content.tolerance
    if needed is None or tolerance is None or needed <= content.samples:
        return []
    drop = f"a drop of {100 * tolerance:g} points at every end"
    return [f"{content.samples} samples are too few to show {drop}: that takes {needed}"]


# Explains a column of worst cases.
RANGE_OF_STARTS = "range of starts: how far apart the scores of a search's starts are; the lowest of them counts"

# The baseline and the methods of adaptation by their names in files, and what tables call them.
METHOD_TITLES = {
    "batch_norms": "all statistics",
    "statistics": "mixed statistics",
    "processing": "statistics and processing",
    "labels": "processing by labels",
}


class Start(msgspec.Struct, omit_defaults=True):
    """The end of the search from an exposure; `stops` is None without adaptation.

    Searches by labels have a loss and a score of the labeled images, and a score. Others have the distance of the
    features from those of the training, with the price, and the certainty, see `r2l_jax.model.mending`.
    """

    stops: Annotated[int, msgspec.Meta(ge=-99, le=99)] | None
    labelled_loss: float | None = None
    labelled_score: float | None = None
    score: float | None = None
    distance: float | None = None
    certainty: float | None = None


def start_titles(starts: Sequence[Start]) -> dict[str, str]:
    """Returns the numbers that the starts of an adaptation have, and what tables call them; `{score}` is filled in."""
    if starts[0].certainty is not None:
        return {"distance": "distance of features", "certainty": "certainty"}
    return {
        "labelled_loss": "loss of labeled images",
        "labelled_score": "{score} of labeled images",
        "score": "{score}",
    }


class Adapted(OfFold):
    """The adaptation of a fold to a drift.

    Attributes:
        undrifted: the score without the drift.
        before: the score under the drift.
        after: the score under the drift after adaptation.
        won_back: the share of the lost score that comes back; None if nothing is lost.
        measured: the samples that were measured, such as "test samples", "validation scenes", or "other samples" of
            drifted data.
        methods: the score after the baseline and each method; `after` is the last one's.
        refusal: why the unlabeled images were not used, if they were not.
        statistics: how the statistics of the last method were mixed.
    """

    undrifted: float
    before: float
    after: float
    won_back: float | None
    start: int | None
    starts: list[Start]
    default: dict[str, np.ndarray]
    parameters: dict[str, np.ndarray]
    measured: str | None = None
    methods: dict[str, float] = {}
    refusal: str | None = None
    statistics: str | None = None


class AdaptedIntervals(msgspec.Struct):
    """The scores of an adaptation, and the difference of after and before, paired by sample."""

    undrifted: Estimate
    before: Estimate
    after: Estimate
    won_back: Estimate


class AdaptedOverFolds(msgspec.Struct):
    """The adaptation of all folds of a run, or of all members of a group, to a drift.

    Attributes:
        undrifted: as for `Adapted`.
        before: as for `Adapted`.
        after: as for `Adapted`.
        won_back: as for `Adapted`.
        measured: as for `Adapted`.
        samples: the number of samples, or of scenes if several samples show one.
        intervals: the scores and the score won back, with intervals.
        methods: the score after the baseline and each method, with intervals.
    """

    undrifted: PartialStatistic
    before: PartialStatistic
    after: PartialStatistic
    won_back: PartialStatistic
    measured: str | None = None
    samples: Count = 0
    intervals: AdaptedIntervals | None = None
    methods: dict[str, Estimate] = {}


class Adaptation(OfFolds):
    """An adaptation.json over all folds of a run, or over all members of a group, which adjust.py writes.

    Attributes:
        score: the name of the score.
        drifts: the numbers by drift.
        folds: the adaptations of the folds of a run; of a group, they are in its members' files.
        about: whether intervals are about the recipe or about the model.
        members: the folders of a group's members.
        flags: the settings of the adaptation.
    """

    score: str
    drifts: dict[str, AdaptedOverFolds]
    folds: dict[str, dict[str, Adapted]] = {}
    about: About = "model"
    members: list[str] = []
    flags: dict[str, Any] = {}

    @property
    def trainings(self) -> set[str | None]:
        """The ids of the trainings that were adapted."""
        each = {adapted.training for drifts in self.folds.values() for adapted in drifts.values()}
        return each or super().trainings


def plain(result: Any) -> Any:
    """Returns a result, or a part of one, as its JSON file holds it."""
    return json.loads(json.dumps(msgspec.to_builtins(result, enc_hook=lambda array: array.tolist())))


def read_result(file: pathlib.Path, kind: type[Result]) -> Result | None:
    """Reads the result that a program has left in a file.

    Args:
        file: the file.
        kind: a class of this module.

    Returns:
        The result; None if the file is missing.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}): make it anew or move it away") from None
    return converted(content, kind, file)


def converted(content: Any, kind: Any, file: pathlib.Path) -> Any:
    """Converts a part of a JSON file to a type.

    Args:
        content: the part.
        kind: the type, as `msgspec.convert` takes it; in it, arrays of NumPy stand for nested lists of numbers.
        file: the file, for the message of an error.

    Raises:
        InputError: the part has another type.
    """
    try:
        return msgspec.convert(content, kind, dec_hook=lambda _, numbers: np.array(numbers, float))
    except (msgspec.ValidationError, OverflowError) as error:
        reason = str(error).replace("`", "").replace("$.", "")
        raise InputError(f"{file} is damaged or of another version ({reason}): make it anew or move it away") from None
