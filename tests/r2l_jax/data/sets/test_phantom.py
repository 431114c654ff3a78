import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.data.sets import phantom, synthetic

SIZE, EACH = 64, 12


@jax.jit
def render(keys):
    """Renders one scene for each key `(classes, EACH)`, of the class of the first index."""
    by_class = jax.vmap(lambda key, index: phantom.render(key, index, SIZE), (0, None))
    return jax.vmap(by_class)(keys, jnp.arange(len(phantom.CLASSES)))


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), (len(phantom.CLASSES), EACH))


@pytest.fixture(scope="module")
def scenes(keys):
    return tuple(np.asarray(part) for part in render(keys))


def of_class(scenes, name):
    index = phantom.CLASSES.index(name)
    return scenes[0][index], scenes[1][index]


def test_transmit_follows_the_law_of_beer_and_lambert():
    absorbances = jnp.array([[0.5, 1.0, 0.0], [0.2, 0.0, 2.0]])
    np.testing.assert_allclose(phantom.transmit(jnp.zeros(2), absorbances), 1)
    np.testing.assert_allclose(
        phantom.transmit(jnp.array([2.0, 0.5]), absorbances), [10**-1.1, 10**-2, 10**-1], rtol=1e-6
    )


def test_transmittance_is_squared_at_twice_the_thickness_and_multiplied_over_dyes():
    concentrations = jax.random.uniform(jax.random.key(0), (5, 4, len(phantom.DYES)))
    absorbances = jnp.array(list(phantom.DYES.values()))
    once = phantom.transmit(concentrations, absorbances)
    np.testing.assert_allclose(phantom.transmit(2 * concentrations, absorbances), once**2, rtol=1e-5)
    single = [
        phantom.transmit(concentrations[..., i : i + 1], absorbances[i : i + 1]) for i in range(len(phantom.DYES))
    ]
    np.testing.assert_allclose(np.prod(single, axis=0), once, rtol=1e-5)


def test_the_key_and_the_class_decide_the_scene(keys, scenes):
    light, _ = scenes
    again, _ = render(keys)
    np.testing.assert_array_equal(again, light)
    # Neighbors along axis 1 are scenes of one class with different keys.
    assert (abs(np.diff(light, axis=1)).mean((2, 3, 4)) > 0.01).all()
    same_key, _ = render(jnp.broadcast_to(keys[0], keys.shape))
    assert (abs(np.diff(same_key, axis=0)).mean((2, 3, 4)) > 0.001).all()


def test_each_class_has_its_stain(scenes):
    absorbed = {}
    for name in phantom.CLASSES:
        light, mask = of_class(scenes, name)
        absorbed[name] = -np.log10(light).mean((0, 1, 2), where=mask[..., None])
    red, green, blue = np.stack(list(absorbed.values()), -1)
    order = list(absorbed)
    # Eosin absorbs green and blue, azure absorbs red. The eosinophil is the reddest; the lymphocyte is mostly nucleus.
    assert order[np.argmax(blue / red)] == "EOS"
    assert order[np.argmax(red)] == "LYT"
    # The neutrophil is paler than the eosinophil, and the monocyte or the lymphocyte is the least pink.
    assert green[order.index("NGS")] < green[order.index("EOS")]
    assert order[np.argmin(green / red)] in ("MON", "LYT")


def test_the_scenes_are_those_of_version_2(scenes):
    """Other scenes need another version of the synthetic data set: folders of the same version hold the same files."""
    assert synthetic._VERSION == 2
    expected = np.load(pathlib.Path(__file__).with_name("scenes_of_version_2.npz"))
    # Means over blocks of eight pixels of four scenes of each class.
    light, mask = (part[:, :4].reshape(5, 4, 8, 8, 8, 8, *part.shape[4:]).mean((3, 5)) for part in scenes)
    np.testing.assert_allclose(light, expected["light"] / 65535, atol=1e-4)
    np.testing.assert_allclose(mask, expected["mask"] / 255, atol=0.02)
