"""Tells whether a model needs adaptation: whether new images differ from clean ones.

The confidence of a model cannot tell, because a model can be confident and wrong.
"""

from collections.abc import Callable

import numpy as np

from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.errors import InputError, warn
from r2l_jax.training.run import Run

# The probability of adapting to images without drift.
LEVEL = 0.05


def unnoticed(run: Run, raws: np.ndarray, find_reference: Callable[[], Reference]) -> str | None:
    """Returns a message if no drift is detected in new images, else None; without a reference, warns and returns None.

    Args:
        run: the models.
        raws: the new raw images, of the training size.
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
    return f"no drift is detected in {len(raws)} images, compared with {len(known)} clean ones (p = {p_value:.2g})"
