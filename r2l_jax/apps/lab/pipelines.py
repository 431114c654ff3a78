"""The pipelines that a visitor can choose."""

from collections.abc import Sequence

import isp
from r2l_jax.names import DEMOSAICING
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.run import Run

LEARNED, CLASSICAL = "learned by the run", "classical algorithms"

# The algorithms of each step of a classical pipeline.
STEPS = {
    "demosaic": DEMOSAICING,
    "sharpen": tuple(isp.ALGORITHMS["sharpen"]),
    "denoise": tuple(isp.ALGORITHMS["denoise"]),
}

# The algorithms chosen at first, as in a classical pipeline.
FIRST = {"demosaic": "bilinear", "sharpen": "sharpening_filter", "denoise": "gaussian_denoising"}


def pipelines(model: Run | None, own: NamedPipeline | None) -> dict[str, NamedPipeline]:
    """Returns the pipelines that can be chosen by name, except for classical ones; the first one is the default.

    A model brings the pipeline that it has learned, and a user their `own`.
    """
    learned = {} if model is None else {LEARNED: model.named_pipeline}
    stated = {} if own is None else {own.title: own}
    return {**learned, **stated, **{name: find_pipeline(name) for name in ("parametrized", "full")}}


def classical(algorithms: Sequence[str]) -> NamedPipeline:
    """Returns the pipeline of a demosaicing, a sharpening and a denoising.

    Raises:
        InputError: one of them is unknown.
    """
    for name, (step, known) in zip(algorithms, STEPS.items(), strict=True):
        # A pipeline's name could also name a Python file, which would be run.
        if name not in known:
            raise InputError(f"{step} must be one of {', '.join(known)}, got {name!r}")
    return find_pipeline(".".join(algorithms))
