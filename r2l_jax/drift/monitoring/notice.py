"""Tells whether a model needs to be adapted to new images: whether these differ from clean ones.

The confidence of a model cannot tell, because a model can be confident and wrong.
"""

from collections.abc import Callable

import numpy as np

from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.training.run import Run

# The probability that images without a drift are adapted to.
LEVEL = 0.05


def unnoticed(run: Run, raws: np.ndarray, find_reference: Callable[[], Reference]) -> str | None:
    """Says that no drift is noticed in new images; None if one is, or if there is no reference, which it warns of.

    Args:
        run: the models.
        raws: the mosaics of the new images, of the size of the training's.
        find_reference: returns the reference, or raises an InputError.
    """
    try:
        known = find_reference()
    except InputError as error:
        warn(f"the model is adapted without a test for drift: {error}")
        return None
    p_value = alarm.compare(known.seen, see(run, raws), LEVEL).p_value
    if p_value <= LEVEL:
        return None
    return f"no drift is noticed in {len(raws)} images, compared with {len(known)} clean ones (p = {p_value:.2g})"
