import numpy as np
import pytest

import isp
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.ranges import moved
from r2l_jax.errors import InputError

PIPELINES = {
    "drone": isp.parametrized(isp.CAMERAS["drone"], additive_layer=(4, 4)),
    "static": isp.static(isp.CAMERAS["drone"], "bilinear", "unsharp_masking", "tv_chambolle"),
}


@pytest.fixture(params=PIPELINES)
def pipeline(request):
    """The declarations of the parameters of a pipeline, and their values."""
    return PIPELINES[request.param].declarations, PIPELINES[request.param].parameters()


def test_what_one_cause_moves_together_costs_nothing(pipeline):
    declarations, default = pipeline
    together = moved(declarations, default, {name: np.full(np.shape(value), 0.1) for name, value in default.items()})
    matrices = [name for name, value in default.items() if np.ndim(value) > 1]
    assert float(ranges.apart(declarations, default, together)) == pytest.approx(0.01 * len(matrices), rel=1e-3)
    red = moved(declarations, default, {"white_balance": np.float32([0.3, 0, 0])})
    assert float(ranges.apart(declarations, default, red)) == pytest.approx(0.02, rel=1e-3)


def test_offsets_that_cannot_be_counted_are_refused():
    pipeline = PIPELINES["static"]
    shading = isp.Stage("shading", lambda image, strength: image, {"strength": isp.Parameter(0.0)})
    edited = pipeline.inserted(shading, before="gamma_correct")
    ranges.check(pipeline.declarations, pipeline.parameters())
    with pytest.raises(
        InputError, match=r"^parameter strength needs a natural range: .* isp.Parameter\(..., width=...\)"
    ):
        ranges.check(edited.declarations, edited.parameters())
    black = pipeline.parameters() | {"white_balance": np.float32([1, 0, 1])}  # as no training leaves it
    with pytest.raises(InputError, match=r"^parameter white_balance has a log scale, but a value of 0"):
        ranges.check(pipeline.declarations, black)
