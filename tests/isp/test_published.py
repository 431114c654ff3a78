import jax.numpy as jnp
import numpy as np
import pytest

import isp

CAMERA = isp.CAMERAS["drone"]
PIPELINES = [isp.parametrized(CAMERA, additive_layer=(2, 4)), isp.static(CAMERA)]


@pytest.mark.parametrize(
    ("parameter", "function"),
    [
        ("white_balance", isp.color.white_balance),
        ("colour_correction", isp.color.color_correct),
        ("debayer", isp.demosaic.interpolate),
    ],
)
def test_weights_are_named_after_the_colors_that_they_connect(parameter, function):
    shape = PIPELINES[0].parameters()[parameter].shape
    images = jnp.broadcast_to(jnp.eye(3)[:, None, None, :], (3, 4, 4, 3))  # A red, a green and a blue image.
    colors = ("red", "green", "blue")
    for number, name in enumerate(PIPELINES[0].facts[parameter].element_names(parameter, shape)):
        weights = np.zeros(shape, np.float32)
        weights.flat[number] = 1
        lit = np.asarray(function(images, jnp.asarray(weights)))[:, 1, 1]
        ((source, to),) = np.argwhere(lit > 0)
        expected = colors[to] if parameter == "white_balance" else f"{colors[to]}_from_{colors[source]}"
        assert name.split(".")[1] == expected


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_parameter_has_a_natural_range_and_camera_fields_are_declared(pipeline):
    assert all(facts.has_range for facts in pipeline.facts.values())
    fields = {facts.camera: name for name, facts in pipeline.facts.items() if facts.camera}
    assert set(fields) == {"black_level", "white_balance", "color_matrix"}
    for field, name in fields.items():
        np.testing.assert_allclose(pipeline.parameters()[name], getattr(CAMERA, field), rtol=1e-6)


def test_only_static_pipelines_render_black_as_zero():
    """The slope of the tone curve is infinite at 0, where nothing could be learned."""
    dark = jnp.zeros((4, 6))
    np.testing.assert_allclose(isp.parametrized(CAMERA)(dark).min(), 1e-5 ** (1 / 2.2), rtol=1e-5)
    assert isp.static(CAMERA)(dark).min() == 0
