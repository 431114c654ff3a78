"""Formats the tables of an adaptation: where its searches ended, and how far the parameters moved."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.runtime.tables import table

# A table shows the values of parameters with at most this many.
_SHOWN = 4


def starts_table(content: Mapping[str, Any], score: str) -> str:
    """Formats where the search from each start ended, with a mark at the chosen start."""
    rows = [["start", "labelled loss", f"labelled {score}", score]]
    for start in content["starts"]:
        name = "no adaptation" if start["stops"] is None else f"{start['stops']:+d} stops"
        mark = " *" if start["stops"] == content["start"] else ""
        rows.append([name + mark, *(f"{start[key]:.4f}" for key in ("labelled_loss", "labelled_score", "score"))])
    return table(rows)


def parameters_table(frozen: Frozen, group: Sequence[str], adapted: Mapping[str, np.ndarray]) -> str:
    """Formats how far each parameter of the group has moved, and the values of small parameters."""
    rows = [["parameter", "default", "adapted", "farthest in natural ranges"]]
    for name in group:
        values = (frozen.default[name], np.asarray(adapted[name]))
        cells = [
            " ".join(map(format_value, each.ravel().tolist())) if each.size <= _SHOWN else f"{each.size} values"
            for each in values
        ]
        farthest = np.abs(np.asarray(frozen.facts[name].offset(*values))).max()
        rows.append([name, *cells, f"{farthest:.3f}"])
    return table(rows)
