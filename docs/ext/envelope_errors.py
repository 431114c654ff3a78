"""Counts how often the whole procedure of the operating envelope certifies simulated models, bad and good ones.

python docs/ext/envelope_errors.py writes docs/results/envelope_errors.csv, in five minutes on one core.

An image is lost once a drift exceeds a threshold of this image, so the losses of all cameras are alike. Each camera
also flips some images from right to wrong, and as many from wrong to right, at random.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import measurements
import numpy as np

from r2l_jax.drift import statistics
from r2l_jax.drift.limits import Limit
from r2l_jax.drift.synthesis import envelope
from r2l_jax.drift.synthesis.config import EnvelopeSettings, EvaluationConfig

IMAGES, TOLERANCES = (60, 240, 480, 1920), (2.0, 5.0)
_DRIFTS = ("exposure", "defocus", "black_level", "row_noise")


class Kind(NamedTuple):
    """A kind of model.

    Attributes:
        drifts: how many drifts it has.
        losses: the loss at shares of a drift's range, as multiples of the tolerance; linear in between.
        flips: the share of images that a camera flips from right to wrong.
    """

    drifts: int
    losses: tuple[tuple[float, float], ...]
    flips: float = 0.005

    def loss(self, shares: np.ndarray) -> np.ndarray:
        """Computes the loss due to each drift of cameras."""
        places, losses = np.array(self.losses, float).T
        return np.interp(shares, places, losses)


# Bad models tolerate 67% of the cameras: the others lose little more than the tolerance, or more and more.
BAD = {
    "edge": Kind(1, ((0, 0), (0.6699, 0.9), (0.67, 1.05), (1, 1.05)), 0),
    "edge and flips": Kind(1, ((0, 0), (0.6699, 0.9), (0.67, 1.05), (1, 1.05))),
    "slope": Kind(2, ((0, 0), (1, 0.842))),
    "slopes": Kind(4, ((0, 0), (1, 0.444))),
}
GOOD = {f"loses {share:g} of the tolerance": Kind(2, ((0, 0), (1, share / 2))) for share in (0, 0.25, 0.5)}


class Simulated(envelope._Envelope):
    """The envelope of a simulated model."""

    def __init__(self, kind: Kind, images: int, settings: EnvelopeSettings, seed: int):
        self._config = EvaluationConfig(run=("simulated",), seed=seed, limits=settings)
        self._settings, self._groups = settings, images
        self._limits = {name: Limit(0.0, 1.0) for name in _DRIFTS[: kind.drifts]}
        self._kind, self._random = kind, np.random.default_rng(seed)
        self._thresholds = self._random.random((images, kind.drifts))

    def _lost(self, shares: np.ndarray, names: object) -> np.ndarray:
        losses = self._settings.allowed * self._kind.loss(shares)
        flipped = self._random.random((len(shares), self._groups))
        lost = 1.0 * (flipped < self._kind.flips) - (flipped > 1 - self._kind.flips)
        return np.where((self._thresholds < losses[:, None]).any(-1), 1.0, lost)[:, None]

    def tolerated(self, statement: dict) -> float:
        """Computes the fraction of the cameras within stated limits whose true loss is at most the tolerance."""
        low, high = np.array([[limit["low"], limit["high"]] for limit in statement["limits"].values()]).T
        shares = low + np.random.default_rng(0).random((20_000, len(low))) * (high - low)
        lost = 1 - (1 - self._settings.allowed * self._kind.loss(shares)).prod(-1)
        return float((lost <= self._settings.allowed).mean())


def simulated(kind: Kind, images: int, settings: EnvelopeSettings, models: int) -> dict[str, float]:
    """Simulates models, and returns in percent how many are certified, and for how many of them this is wrong.

    A model is certified if the given limits hold, or smaller ones; this is wrong if too many cameras within these
    limits lose more than the tolerance. `loss_shown` is the median loss, in points, stated for the given limits.
    """
    tests, wrong = [], 0
    for seed in range(models):
        model = Simulated(kind, images, settings, seed)
        tests.append(model.tested()[1])
        wrong += tests[-1][-1]["holds"] and model.tolerated(tests[-1][-1]) < settings.fraction
    shares = {"given_hold": np.mean([found[0]["holds"] for found in tests])}
    shares |= {"certified": np.mean([found[-1]["holds"] for found in tests]), "wrong": wrong / models}
    shown = np.median([np.nan if (loss := found[0]["loss_shown"]) is None else loss for found in tests])
    return {name: 100 * float(share) for name, share in shares.items()} | {"loss_shown": 100 * float(shown)}


def rows(kinds: Mapping[str, Kind], proposals: int, models: int) -> Iterator[dict[str, object]]:
    """Yields a row for each kind, number of images and tolerance; too few images certify none, as they are refused."""
    for (name, kind), images, tolerance in itertools.product(kinds.items(), IMAGES, TOLERANCES):
        settings = EnvelopeSettings(envelope="simulated", tolerance=tolerance, proposals=proposals)
        needed = statistics.samples_for_limit(tolerance / 100, settings.errors[0])
        found = simulated(kind, images, settings, models) if images >= needed else {}
        about = {
            "model": name,
            "images": images,
            "tolerance": f"{tolerance:g}",
            "proposals": proposals,
            "models": models,
        }
        values = {name: f"{found.get(name, 0):.1f}" for name in ("given_hold", "certified", "wrong", "loss_shown")}
        yield {**about, "images_needed": needed, **values}


def main() -> None:
    """Writes the table; tests simulate proposals, which take seconds for each model."""
    measurements.write("envelope_errors", [*rows(BAD, 0, 500), *rows(GOOD, 0, 100)])


if __name__ == "__main__":
    main()
