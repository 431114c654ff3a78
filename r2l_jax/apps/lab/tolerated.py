"""The intervals that a run's model tolerates, as `forensics.py` has found them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from r2l_jax.drift.search.knobs import Knob
from r2l_jax.runtime.errors import warn
from r2l_jax.training.loaded import TrainedModel
from r2l_jax.training.trained import fingerprint_of


class Tolerances(NamedTuple):
    """The tolerated intervals of a model's knobs.

    Attributes:
        points: how many points the score may fall.
        intervals: the least and the greatest tolerated value of each knob, by its name, in the knob's unit.
    """

    points: float
    intervals: Mapping[str, tuple[float, float]]

    def positions(self, knob: Knob) -> tuple[float, float] | None:
        """Returns the ends of a knob's interval as positions; None if it has none."""
        if knob.name not in self.intervals:
            return None
        ends = sorted(knob.position(value) for value in self.intervals[knob.name])
        return ends[0], ends[1]


def read(run: str, model: TrainedModel) -> Tolerances | None:
    """Reads the tolerances that `forensics.py` has left in a run's folder.

    Args:
        run: the folder of the run, or of one of its folds.
        model: the model; tolerances of another one, such as an earlier training of the same name, are left out with a
            warning.

    Returns:
        The tolerances; None if there are none of this model.
    """
    file = pathlib.Path(run) / "forensics" / f"fold_{model.about.fold}" / "tolerances" / "tolerances.json"
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        intervals = {name: (float(knob["low"]), float(knob["high"])) for name, knob in content["knobs"].items()}
        points, found = 100 * float(content["tolerance"]), content["identity"]["model"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        warn(f"{file}: no finished tolerances")
        return None
    if found != fingerprint_of(model.config, model.module):
        warn(f"{file}: the tolerances are those of another model, and are not shown")
        return None
    return Tolerances(points, intervals)
