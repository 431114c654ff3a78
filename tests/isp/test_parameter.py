import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp

LINEAR = isp.Parameter(0.0, width=0.5, low=-1, high=2)
LOG = isp.Parameter(2.0, scale="log")


@pytest.mark.shows("isp.Parameter(width)")
def test_offsets_count_natural_ranges_from_a_start():
    assert LINEAR.moved(1.0, 0.5) == 1.25
    assert LINEAR.offset(1.0, 1.25) == 0.5
    assert LOG.moved(2.0, 1.0) == pytest.approx(2 * math.e)
    assert LOG.offset(-2.0, -2.0 * math.e) == pytest.approx(1)
    assert math.isnan(LOG.offset(2.0, -2.0))


@pytest.mark.parametrize(("parameter", "start"), [(LINEAR, 0.9), (LOG, 1.7), (LOG, -0.7)])
def test_offset_is_the_inverse_of_moved_under_jit_and_vmap(parameter, start):
    offsets = jnp.linspace(-1, 1, 5)
    back = jax.jit(jax.vmap(lambda offset: parameter.offset(start, parameter.moved(start, offset))))(offsets)
    np.testing.assert_allclose(back, offsets, atol=1e-6)


@pytest.mark.shows("isp.Parameter(scale, low, high)")
@pytest.mark.parametrize(
    ("parameter", "start", "valid"),
    [
        (LINEAR, 0.0, (-1, 2)),
        (LINEAR, 3.0, (-1, 3)),  # a start beyond the end is valid
        (LINEAR, -1.5, (-1.5, 2)),
        (LOG, 2.0, (0.02, 200)),
        (LOG, -2.0, (-200, -0.02)),
        (isp.Parameter(1.0, scale="log", low=0.5), 1.0, (0.5, 100)),
        (isp.Parameter(1.0, scale="log", high=0.5), 1.0, (0.01, 1)),
        (isp.Parameter(1.0, scale="log", low=-3, high=-0.5), -1.0, (-3, -0.5)),
    ],
)
def test_the_limits_are_where_values_stop_being_valid(parameter, start, valid):
    ends = [float(parameter.moved(start, float(limit))) for limit in parameter.offset_limits(start)]
    assert sorted(ends) == pytest.approx(valid, rel=1e-5)
    beyond = sorted(float(parameter.moved_validly(start, offset)) for offset in (-90.0, 90.0))
    assert beyond == pytest.approx(valid, rel=1e-5)
    traced = jax.jit(parameter.offset_limits)(start)
    np.testing.assert_allclose(traced, parameter.offset_limits(start), rtol=1e-6)


@pytest.mark.shows("isp.Parameter(labels)")
def test_labels_name_the_elements_along_the_leading_axes():
    assert isp.Parameter(1.0).element_names("p", ()) == ["p"]
    named = isp.Parameter(np.ones((2, 2)), labels=("x", "y"))
    assert named.element_names("p", (2, 2)) == ["p.x.0", "p.x.1", "p.y.0", "p.y.1"]
    named = isp.Parameter(np.ones((2, 2, 2)), labels=tuple("abcd"))
    assert named.element_names("p", (2, 2, 2)) == [f"p.{label}.{i}" for label in "abcd" for i in range(2)]


def test_parameters_are_equal_whatever_their_values_and_can_be_hashed():
    first, second = (isp.Parameter(np.full((3, 3), value), width=1, neutral=np.eye(3)) for value in (1.0, 2.0))
    assert first == second
    assert hash(first) == hash(second)
    assert first != isp.Parameter(np.ones((3, 3)), width=2, neutral=np.eye(3))


@pytest.mark.parametrize(
    ("value", "declared", "message"),
    [
        (math.nan, {}, "value must be finite, got nan"),
        (1e-60, {"scale": "log"}, r"value must not be 0 on a log scale, .*, got 0\.0"),  # in float32
        ([1.0, 2.0], {"camera": "white_balance"}, r"value must have the shape \(3,\) of a camera's white_balance, got"),
        ([1.0, 2.0], {"labels": ("x",)}, r"labels must name each element of the leading axes of \(2,\), got 1"),
        ([1.0, 2.0], {"width": 1, "neutral": [0.0]}, r"neutral must have the value's shape \(2,\), got \(1,\)"),
    ],
)
def test_refuses_declarations_that_contradict_each_other(value, declared, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        isp.Parameter(value, **declared)


def test_nothing_guesses_a_range(unchecked):
    parameter = isp.Parameter(0.0)
    assert not parameter.has_range
    for needs_range in (parameter.moved, parameter.offset, parameter.moved_validly):
        with pytest.raises(ValueError, match="a linear parameter must declare a width"):
            needs_range(0.0, 1.0)
