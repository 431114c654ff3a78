"""The operating envelope of a model: limits on its camera, and how many cameras within them it tolerates.

Cameras are drawn at random within the limits. A camera fails if the upper confidence limit of the model's loss on its
images exceeds the tolerance. The number of failures bounds the fraction of all cameras within the limits that do not
fail (Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 26(4), 1934). Where none fails but some
should, the images were favorable to the first of those, so the error of one upper limit bounds that of all. ISO/IEC
24029-2 calls this stability over a domain.
"""

import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from PIL import Image
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from isp import CameraState
from r2l_jax.cli import stop
from r2l_jax.cli.commands import closing
from r2l_jax.cli.flags import flat
from r2l_jax.cli.progress import say
from r2l_jax.cli.stop import Interrupted
from r2l_jax.data import loader
from r2l_jax.drift import limits as of_limits
from r2l_jax.drift import measure, statistics
from r2l_jax.drift.cases import CLEAN, Case, camera_of, cameras, check_camera
from r2l_jax.drift.limits import FILE, FOLDER, PIPELINE, Limit, Limits, percent
from r2l_jax.drift.measure import Model, Outcomes, Samples
from r2l_jax.drift.renderer import Processor, Renderer, grouped
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.trained_folds import TrainedFold, folds_of, ids_of
from r2l_jax.errors import InputError
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.results import store
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.files import write_json
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import DROP, INK, Column, Figure, Result, Table, cached, points
from r2l_jax.training.model_io import Trained

# A camera: the values of its quantities by name.
Amounts = dict[str, float]

# A side of a proposal shrinks by the first fraction at a time, and closes below the second fraction of its range.
_STEP, _LEAST = 0.1, 0.002
# How often cameras are drawn to improve a proposal, and how many each time.
_ATTEMPTS, _DRAWN = 6, 64

# The loss that a proposal avoids, and the greatest loss that it learns from, where 0 is no loss and 1 the tolerance.
_MARGIN, _GREATEST = 0.75, 4.0

# Differences of scores below this are rounding.
_ROUNDING = 1e-9


class Cameras(NamedTuple):
    """N cameras that were drawn within L limits: where their quantities are in their distributions, from 0 to 1.

    `losses` `(N,)` is the loss on each camera's images of the model with the greatest upper limit, which is `highest`.
    """

    shares: np.ndarray
    losses: np.ndarray
    highest: np.ndarray

    def failing(self, tolerance: float) -> np.ndarray:
        """Tells which cameras fail."""
        return self.highest > tolerance + _ROUNDING

    def joined(self, others: "Cameras") -> "Cameras":
        """Adds other cameras."""
        return Cameras(*map(np.concatenate, zip(self, others, strict=True)))


def run(config: EvaluationConfig) -> Result:
    """Draws cameras within limits, measures the models of a run or a group with each, and writes the statement.

    A camera fails unless each member of a group loses at most the tolerance. If the statement does not hold, smaller
    limits are proposed from all cameras so far, and tested on cameras of other seeds. The result is in the folder
    `envelope` of the run, and `envelope.json` there has the limits that hold.

    Raises:
        InputError: the run is not finished or has no raw data, limits that are not valid, or draws or images that are
            too few.
        Interrupted: SIGINT or SIGTERM arrived.
    """
    uri, *further = config.run
    if further:
        raise InputError(f"`envelope` takes one run or group, got `run={','.join(config.run)}`")
    folds = folds_of(config.of_run(uri))
    fold = folds[0].fold
    if fold.dataset.camera is None:
        raise InputError(f"`envelope`: {uri} was trained on {fold.dataset.name}, which has no raw data")
    limits = of_limits.read(str(config.limits.envelope), _widest(fold))
    reference, others = camera_of(fold.dataset), cameras(config.cameras)
    check_camera(others, fold.dataset)
    folder = pathlib.Path(config.output or pathlib.Path(uri) / FOLDER)
    samples = {tuple(trained.fold.measured_indices.tolist()) for trained in folds}
    settings = dataclasses.asdict(dataclasses.replace(config.limits, envelope=None))
    inputs = store.identity(
        {**settings, "seed": config.seed, "limits": of_limits.written(limits)},
        [[fold.dataset.content_of(indices) for indices in sorted(samples)], reference.to_json()],
        [[trained.name, trained.fold.identity, trained.fold.training] for trained in folds],
    )
    with writing_to(folder), stop.after_step():
        try:
            result = cached(folder, inputs, lambda: _Envelope(config, folds, limits).result(folder, inputs))
        except Interrupted:
            raise Interrupted("stopped; an envelope is one result, so the same command begins again") from None
    shown = {name: table for name, table in result.tables.items() if name != "cameras"}
    print("\n\n".join([dataclasses.replace(result, tables=shown).text(), *result.metadata["verdict"]]))
    for case in others:
        print(f"\n{_placed(case.name, case.state_of(reference).given, limits)}")
    print(f"\n{closing(folder, config.run, config.output is None)}")
    return result


def _widest(fold: Trained) -> dict[str, Limit]:
    try:
        knobs = Frozen(fold.model, fold.task).knobs
    except (ValueError, InputError):  # Its processing has no parameters, or none with a range.
        knobs = {}
    return of_limits.possible(camera_of(fold.dataset), knobs)


def _placed(name: str, drifts: Amounts, limits: Limits) -> str:
    reached = of_limits.reaches(limits, drifts)
    rows = [
        [each, drifts.get(each), limits[each].unit if each in limits else "", reach]
        for each, reach in reached.items()
        if each in drifts or reach > 1
    ]
    columns = [Column("limit"), Column("camera", "", ".3g"), Column("unit"), Column("share of the limit", "", ".2f")]
    verdict = "is inside" if max(reached.values()) <= 1 else "is not inside"
    return Table(f"{name} {verdict}", columns, rows, "inf: the limits allow no change in this direction").text()


class _Envelope:
    """Makes the result of one run or group."""

    def __init__(self, config: EvaluationConfig, folds: Sequence[TrainedFold], limits: Limits):
        self._config, self._folds, self._limits = config, folds, limits
        self._settings = config.limits
        self._fold = folds[0].fold
        sets = grouped(folds, lambda each: (each.fold.number, *each.fold.measured_indices.tolist()))
        self._sets = [of_set for _, of_set in sets]
        self._clean = [self._measure(of_set, [CLEAN], {}) for of_set in self._sets]
        members = measure.by_member(self._clean)
        of_member = next(iter(members.values()))
        self._groups, self._members = len(measure.over_folds(of_member)), len(members)
        self._samples = len(measure.joined_samples(outcomes for _, outcomes in of_member))
        needed = statistics.samples_for_limit(self._settings.allowed, self._settings.errors[0])
        if self._groups < needed:
            unit = "samples" if self._groups == self._samples else "groups"
            raise InputError(
                f"`tolerance={config.limits.tolerance:g}` takes at least {needed} {unit}, even if no camera loses "
                f"any: {self._groups} {self._fold.measured} {unit} show a loss of at most "
                f"{_rounded_up(min(self._least, 1.0))} points at best"
            )

    @property
    def _least(self) -> float:
        """The upper limit of the loss of a camera that changes nothing."""
        return float(statistics.upper_limit(np.zeros(self._groups), self._settings.errors[0]))

    @functools.cached_property
    def _neutral(self) -> np.ndarray:
        return np.array([limit.share_of(limit.neutral) for limit in self._limits.values()])

    def tested(self) -> tuple[Cameras, list[dict[str, Any]]]:
        """Tests the limits and, if they do not hold, smaller ones; returns the first cameras, and the statements."""
        settings = self._settings
        whole = np.array([[0.0], [1.0]]).repeat(len(self._limits), 1)
        _, given, proposed = settings.errors
        drawn, first = self._test(whole, 0, settings.cameras, given)
        tests, known = [first], drawn
        if settings.proposals and not first["holds"]:
            known = self._explored(known)
        for number in range(1, settings.proposals + 1):
            if tests[-1]["holds"]:
                break
            box = self._smaller(known)
            if box is None:
                break
            # Bonferroni: each proposal spends its part of the allowed error.
            error, draws = proposed / settings.proposals, settings.cameras
            allowed = statistics.most_failures(draws, 1 - given, settings.fraction)
            while statistics.fraction_bound(allowed, draws, 1 - error) < settings.fraction:
                draws += 1
            found, statement = self._test(box, number, draws, error)
            tests.append(statement)
            known = known.joined(found)
        return drawn, tests

    def result(self, folder: pathlib.Path, inputs: store.Identity) -> Result:
        """Writes `envelope.json` and returns the result."""
        drawn, tests = self.tested()
        first = tests[0]
        about = {
            "about": "recipe" if self._members > 1 else "model",
            "score": self._fold.task.score.name,
            "measured": f"{self._fold.measured} samples",
            "samples": self._samples,
            "groups": self._groups,
            "models": [trained.fold.identity for trained in self._folds],
            "identity": inputs,
        }
        folder.mkdir(parents=True, exist_ok=True)
        stated = tests[-1] if tests[-1]["holds"] else first
        write_json(folder / FILE, {**stated, **about})
        proposed = None if stated is first else stated["limits"]
        verdict, notes = self._sentences(tests, drawn)
        metadata = {"title": "Operating envelope", "verdict": verdict, "notes": notes, "tests": tests, **about}
        metadata |= {"training": ids_of(self._folds), "flags": flat(self._config)}
        figures = {"limits": self._figure(drawn, proposed), "worst": self._picture(drawn)}
        captions = {"worst": "Images from the reference camera, and from the camera with the largest loss"}
        return Result(metadata, self._tables(drawn, tests, proposed), figures, files=(FILE,), captions=captions)

    def _test(self, box: np.ndarray, number: int, draws: int, error: float) -> tuple[Cameras, dict[str, Any]]:
        """Draws cameras in a box of shares, and states how many of all such cameras do not fail."""
        settings, confidence = self._settings, 1 - error
        most = statistics.most_failures(draws, confidence, settings.fraction)
        allowed = most if settings.stop_early else draws
        drawn = self._draw(box, number, draws, allowed)
        failures = int(drawn.failing(settings.allowed).sum())
        bound = statistics.fraction_bound(failures, len(drawn.losses), confidence, failures > allowed)
        return drawn, {
            "limits": of_limits.written(self._cut(box)),
            "draws": len(drawn.losses),
            "failures": failures,
            "confidence": settings.confidence,
            "tolerance": settings.allowed,
            "fraction": bound,
            "holds": bound >= settings.fraction,
            "loss_shown": None if failures > allowed else float(np.sort(drawn.highest)[-1 - most]),
        }

    def _draw(self, box: np.ndarray, number: int, draws: int, allowed: int) -> Cameras:
        """Measures cameras, each drawn from its own seed, until more than the allowed number of them fail."""
        random = [np.random.default_rng([self._config.seed, number, each]) for each in range(draws)]
        shares = [box[0] + each.random(len(self._limits)) * (box[1] - box[0]) for each in random]
        # All models of a call have one pipeline.
        at_once = 1 if any(name.startswith(PIPELINE) for name in self._limits) else measure.TOGETHER
        drawn = Cameras(np.zeros((0, len(self._limits))), *np.zeros((2, 0)))
        for start in range(0, draws, at_once):
            block = np.stack(shares[start : start + at_once])
            lost = self._lost(block, [f"camera {number}.{start + place}" for place in range(len(block))])
            highest = np.asarray(statistics.upper_limit(lost, self._settings.errors[0]))
            worst = np.arange(len(block)), highest.argmax(1)
            drawn = drawn.joined(Cameras(block, lost.mean(-1)[worst], highest[worst]))
            beyond = np.flatnonzero(np.cumsum(drawn.failing(self._settings.allowed)) > allowed)
            if len(beyond):
                drawn = Cameras(*(part[: beyond[0] + 1] for part in drawn))
                break
        failed = drawn.failing(self._settings.allowed).sum()
        say(f"{failed} of {len(drawn.losses)} cameras failed")
        return drawn

    def _lost(self, shares: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Computes the loss of each member on each group as cameras see it, `(cameras, members, groups)`."""
        amounts = [_amounts(self._limits, each) for each in shares]
        cases = [_case(*each) for each in zip(names, amounts, strict=True)]
        found = [self._measure(of_set, cases, amounts[0]) for of_set in self._sets]
        blocks = [clean.joined(each) for clean, each in zip(self._clean, found, strict=True)]
        members = measure.by_member(blocks).values()
        return np.array(
            [[measure.over_folds(each) - measure.over_folds(each, case.name) for each in members] for case in cases]
        )

    def _measure(self, of_set: Sequence[TrainedFold], cases: Sequence[Case], amounts: Amounts) -> Outcomes:
        """Measures models, whose pipelines have the same parameters in all cases."""
        samples = Samples.of(of_set[0].fold, self._config.batch_size, self._config.seed)
        models = {each.name: Model(each.fold.model, _values(each.fold, amounts)) for each in of_set}
        return measure.measure(models, cases, samples, title=f"{cases[0].name} to {cases[-1].name}")

    def _explored(self, known: Cameras) -> Cameras:
        """Adds cameras in smaller limits, which show where a proposal must end; tests draw others."""
        tolerance, scale, size = self._settings.allowed, 1.0, 0.0
        latest = known
        for attempt in range(_ATTEMPTS):
            fails = latest.failing(tolerance)
            if fails.mean() > 0.5:
                # Failures alone say little, so the next cameras are closer to the neutral one.
                scale /= 4
                box = np.stack([self._neutral * (1 - scale), self._neutral + (1 - self._neutral) * scale])
            else:
                box = self._smaller(known)
                grown, size = size, 0.0 if box is None else float(np.prod(box[1] - box[0]))
                if box is None or (grown and not fails.any() and size < 1.1 * grown):
                    break
            latest = self._draw(box, 1000 + attempt, _DRAWN, _DRAWN)
            known = known.joined(latest)
        return known

    def _smaller(self, known: Cameras) -> np.ndarray | None:
        scaled = (known.highest - self._least) / max(self._settings.allowed - self._least, _ROUNDING)
        return _smaller(known.shares, scaled, self._neutral, (1 - self._settings.fraction) / 2)

    def _cut(self, box: np.ndarray) -> dict[str, Limit]:
        """Returns the limits at a box of shares."""
        return {
            name: limit._replace(low=float(limit.at(low)), high=float(limit.at(high)))
            for (name, limit), low, high in zip(self._limits.items(), *box, strict=True)
        }

    def _sentences(self, tests: Sequence[dict[str, Any]], drawn: Cameras) -> tuple[list[str], list[str]]:
        settings, last = self._settings, tests[-1]
        models = f"each of {self._members} models loses" if self._members > 1 else "the model loses"
        tolerance = f"{settings.tolerance:g}"
        parts = "images, cameras and proposals" if settings.proposals else "images and cameras"
        said = {"the limits": tests[0]} | ({"the proposed smaller limits": last} if len(tests) > 1 else {})
        verdict = []
        for where, test in said.items():
            # Other limits state the loss that is shown with the required fraction, if cameras were not stopped early.
            lost, fraction = tolerance, test["fraction"]
            if not test["holds"] and test["loss_shown"] is not None:
                lost, fraction = _rounded_up(test["loss_shown"]), settings.fraction
            if test is tests[0] or test["holds"]:
                verdict.append(
                    f"With {percent(settings.confidence)} confidence for {parts} together, {models} at most {lost} "
                    f"points of {self._fold.task.score.name} on images like these {self._images} with at least "
                    f"{percent(fraction)} of the cameras within {where}, simulated on these images "
                    f"({test['failures']} of {test['draws']} cameras failed): {of_limits.in_words(test['limits'])}."
                )
        if not last["holds"]:
            none = "proposed limits hold either" if len(tests) > 1 else "smaller limits can be proposed"
            rest = f"; no {none}" if settings.proposals else ""
            stopped = f"less than the required {percent(settings.fraction)}"
            missed = stopped if tests[0]["loss_shown"] is None else f"more than the tolerance of {tolerance} points"
            verdict.append(f"This is {missed}{rest}.")
        above = points(np.median(drawn.highest - drawn.losses))
        image, given, proposed = (f"{100 * error:.3g}%" for error in settings.errors)
        notes = [
            f"measured on {self._images}, {self._fold.about.state}",
            f"a camera fails if the upper {percent(1 - settings.errors[0])} confidence limit of its loss exceeds "
            f"{tolerance} points; limits are {above} points above losses (median), half as much with four times the "
            "images",
            f"error of the whole procedure: {image} for the images, {given} for the cameras within the given limits"
            + (f", {proposed} for those within all proposals" if settings.proposals else ""),
        ]
        return verdict, notes

    @property
    def _images(self) -> str:
        """The samples that are measured, in words."""
        return statistics.drawn(self._samples, self._groups, self._fold.measured)

    def _tables(
        self, drawn: Cameras, tests: Sequence[dict[str, Any]], proposed: dict[str, Any] | None
    ) -> dict[str, Table]:
        rows = []
        for name, limit, shares, neutral in zip(
            self._limits, self._limits.values(), drawn.shares.T, self._neutral, strict=True
        ):
            sides = [_correlation(np.maximum(side, 0), drawn.losses) for side in (neutral - shares, shares - neutral)]
            ends = [proposed[name][end] for end in ("low", "high")] if proposed is not None else []
            rows.append([name, limit.unit, limit.low, limit.high, *sides, *ends])
        columns = [Column("limit"), Column("unit"), Column("low", "", ".3g"), Column("high", "", ".3g")]
        columns += [Column(f"rank correlation, {end}", "", ".2f") for end in ("low", "high")]
        columns += [Column(f"proposed {end}", "", ".3g") for end in ("low", "high")] if proposed is not None else []
        note = "rank correlation of the loss with the distance from neutral towards each end; 95% confidence interval"
        of_tests = [
            [f"proposal {number}" if number else "given", each["draws"], each["failures"], each["fraction"]]
            for number, each in enumerate(tests)
        ]
        counts = [Column("limits"), Column("cameras"), Column("failures"), Column("fraction at least", "", ".3f")]
        failing = drawn.failing(self._settings.allowed).tolist()
        cameras = [
            [f"{number}", float(lost), fails, float(highest), *_amounts(self._limits, shares).values()]
            for number, (shares, lost, highest, fails) in enumerate(zip(*drawn, failing, strict=True))
        ]
        named = [Column("camera"), Column("loss", "points", DROP), Column("fails")]
        named += [Column("upper limit", "points", DROP), *map(Column, self._limits)]
        return {
            "limits": Table("Limits", columns, rows, note),
            "tests": Table("Tests", counts, of_tests),
            "cameras": Table("Cameras", named, cameras),
        }

    def _figure(self, drawn: Cameras, proposed: dict[str, Any] | None) -> Figure:
        limits, failing = self._limits, drawn.failing(self._settings.allowed)

        def draw(axes: Axes) -> None:
            for place, (name, limit) in enumerate(limits.items()):
                axes.barh(place, 1, 0.5, color="C0", alpha=0.2)
                if proposed is not None:
                    low, high = (limit.share_of(proposed[name][end]) for end in ("low", "high"))
                    axes.barh(place, high - low, 0.5, low, color="C0", alpha=0.35, label="" if place else "proposed")
                # Cameras are offset within a row, so that equal values do not overlap.
                shares, places = drawn.shares[:, place], place + np.linspace(-0.18, 0.18, len(failing))
                for chosen, color, label in ((~failing, INK, "passes"), (failing, "C1", "fails")):
                    style = {"color": color, "markersize": 3.5, "markeredgewidth": 0, "label": "" if place else label}
                    axes.plot(shares[chosen], places[chosen], "o", **style)
                for end, value, side in ((-0.01, limit.low, "right"), (1.01, limit.high, "left")):
                    axes.text(end, place, f"{value:.3g}", ha=side, va="center", fontsize=8)
            axes.set_yticks(range(len(limits)), [f"{name}\n{limit.unit}" for name, limit in limits.items()], fontsize=8)
            axes.set(xlim=(-0.12, 1.12), ylim=(len(limits) - 0.5, -0.5), xticks=[])
            axes.tick_params(length=0, pad=12)
            axes.spines[:].set_visible(False)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False)

        return Figure(draw, (6.5, 1 + 0.5 * len(limits)), "A dot for each camera, within the limits")

    def _picture(self, drawn: Cameras) -> Image.Image:
        """Draws four samples as the reference camera and the camera that loses most see them."""
        number, fold, images = int(drawn.losses.argmax()), self._fold, {}
        amounts = _amounts(self._limits, drawn.shares[number])
        batch = loader.batch_of(fold.dataset, fold.measured_indices[:4])
        raw, index = jax.device_put((batch["raw"], batch["index"]))
        values, renderer = _values(fold, amounts), Renderer(self._config.seed)
        changed = fold.model.processor if values is None else pipeline_of(fold.model).with_values(values)
        for title, case, processor in (
            ("reference", CLEAN, fold.model.processor),
            (f"camera {number} {_change(drawn.losses[number])}", _case(f"camera 0.{number}", amounts), changed),
        ):
            of_case = renderer.images([case], raw, index, fold.dataset.camera, {None: [Processor.of(processor)]})
            ((_, (made,)),) = of_case
            images |= {f"{title}{' ' * place}": np.asarray(each) for place, each in enumerate(made)}
        return contact_sheet(images, columns=len(raw), panel=240)


def _rounded_up(loss: float) -> str:
    return f"{math.ceil(1000 * loss - _ROUNDING) / 10:g}"


def _change(loss: float) -> str:
    return f"{'gains' if loss < 0 else 'loses'} {points(abs(loss))} points"


def _amounts(limits: Limits, shares: np.ndarray) -> Amounts:
    return {name: float(limit.at(share)) for (name, limit), share in zip(limits.items(), shares, strict=True)}


def _case(name: str, amounts: Amounts) -> Case:
    drifts = {each: amount for each, amount in amounts.items() if not each.startswith(PIPELINE)}
    return Case(name, FOLDER, state=CameraState(**drifts))


def _values(fold: Trained, amounts: Amounts) -> dict[str, np.ndarray] | None:
    """Returns a pipeline's parameters with the values in a camera's amounts; None if it has none."""
    named = {name.removeprefix(PIPELINE): value for name, value in amounts.items() if name.startswith(PIPELINE)}
    if not named:
        return None
    frozen = Frozen(fold.model, fold.task)
    return frozen.turned({name: frozen.knobs[name].position(value) for name, value in named.items()})


def _correlation(distances: np.ndarray, losses: np.ndarray) -> tuple[float, float, float] | None:
    """Computes Spearman's rank correlation with its 95% confidence interval (Fieller et al., Biometrika 44, 1957)."""
    losses = np.round(losses, 9)  # Equal losses, which differ by rounding, have equal ranks.
    if len(losses) < 4 or not distances.any() or np.ptp(losses) == 0:
        return None
    found = float(np.corrcoef(stats.rankdata(distances), stats.rankdata(losses))[0, 1].clip(-0.999, 0.999))
    half = statistics.NORMAL_QUANTILE * math.sqrt(1.06 / (len(losses) - 3))
    return found, math.tanh(math.atanh(found) - half), math.tanh(math.atanh(found) + half)


def _smaller(shares: np.ndarray, scaled: np.ndarray, neutral: np.ndarray, fraction: float) -> np.ndarray | None:
    """Proposes a box of shares `(2, L)` in which less than a fraction of the cameras is predicted to fail.

    A Gaussian process predicts the scaled losses, where 1 is the tolerance. The box shrinks on that side whose
    outermost slab has the most predicted failures, until few enough are left and none of the known cameras in it fails.
    None if the box would be a point.
    """
    scales: Any = np.ones(len(neutral))  # One for each quantity.
    kernel = ConstantKernel() * Matern(scales, (0.02, 20.0), nu=2.5) + WhiteKernel(0.1, (1e-3, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    scaled = scaled.clip(-1, _GREATEST)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        process.fit(shares, scaled)
    box, cube = np.array([[0.0], [1.0]]).repeat(len(neutral), 1), np.random.default_rng(0).random((1024, len(neutral)))
    while (box[1] > box[0]).any():
        drawn = box[0] + cube * (box[1] - box[0])
        mean, deviation = process.predict(drawn, return_std=True)
        failing = stats.norm.sf((_MARGIN - mean) / deviation)
        inside = ((shares >= box[0]) & (shares <= box[1])).all(1)
        if failing.mean() <= fraction and (scaled[inside] <= _MARGIN).all():
            return box
        slabs = {}
        for end, place in np.ndindex(box.shape):
            if step := _STEP * abs(box[end, place] - neutral[place]):
                at_end = abs(drawn[:, place] - box[end, place]) <= step
                slabs[end, place] = failing[at_end].mean() if at_end.any() else 0.0
        end, place = max(slabs, key=slabs.__getitem__)
        room = box[end, place] - neutral[place]
        box[end, place] = neutral[place] + (room * (1 - _STEP) if abs(room) > _LEAST else 0.0)
    return None
