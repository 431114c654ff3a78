import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.drift import elements

CAMERA = isp.CAMERAS["drone"]


def test_the_names():
    assert elements.names("gamma_correct", ()) == ["gamma_correct"]
    assert elements.names("white_balance", (3,)) == ["white_balance.red", "white_balance.green", "white_balance.blue"]
    assert elements.names("black_level", (4,)) == [f"black_level.{place}" for place in range(4)]
    assert elements.names("sharpening_filter", (3, 3))[5] == "sharpening_filter.1.2"
    assert elements.names("colour_correction", (3, 3))[1] == "colour_correction.red_from_green"
    assert elements.names("debayer", (3, 3, 3, 3))[-1] == "debayer.blue_from_blue.2.2"


@pytest.mark.parametrize("pipeline", [isp.parametrized(CAMERA, additive_layer=(2, 4)), isp.static(CAMERA)])
def test_every_value_has_a_name_of_its_own(pipeline):
    values = pipeline.parameters()
    names = [title for name, value in values.items() for title in elements.names(name, value.shape)]
    assert len(set(names)) == len(names) == sum(value.size for value in values.values())


@pytest.mark.parametrize(
    ("parameter", "shape", "function"),
    [
        ("white_balance", (3,), isp.color.white_balance),
        ("colour_correction", (3, 3), isp.color.color_correct),
        ("debayer", (3, 3, 3, 3), isp.demosaic.interpolate),
    ],
)
def test_weights_are_named_after_the_colours_that_they_lead_to_and_from(parameter, shape, function):
    images = jnp.broadcast_to(jnp.eye(3)[:, None, None, :], (3, 4, 4, 3))  # all red, all green, all blue
    for number, name in enumerate(elements.names(parameter, shape)):
        weights = np.zeros(shape, np.float32)
        weights.flat[number] = 1
        lit = np.asarray(function(images, jnp.asarray(weights)))[:, 1, 1]
        ((source, to),) = np.argwhere(lit > 0)
        named = name.split(".")[1]
        colours = (elements.COLOURS[to], elements.COLOURS[source])
        assert named == (colours[0] if parameter == "white_balance" else "{}_from_{}".format(*colours))
