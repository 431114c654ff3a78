import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from r2l_jax.data.sets import phantom, synthetic


def test_the_scenes_are_those_since_version_2():
    """Other scenes need another version of the synthetic data set: folders of the same version hold the same files."""
    assert synthetic._VERSION == 3
    keys = jax.random.split(jax.random.key(0), (len(phantom.CLASSES), 12))[:, :4]
    scenes = [phantom.render(key, index, 64) for index, of_class in enumerate(keys) for key in of_class]
    expected = np.load(pathlib.Path(__file__).with_name("scenes_of_version_2.npz"))
    # Means over blocks of eight pixels of four scenes of each class.
    light, mask = (
        np.stack(parts).reshape(5, 4, 8, 8, 8, 8, *parts[0].shape[2:]).mean((3, 5))
        for parts in zip(*scenes, strict=True)
    )
    np.testing.assert_allclose(light, expected["light"] / 65535, atol=1e-4)
    np.testing.assert_allclose(mask, expected["mask"] / 255, atol=0.02)


def test_transmit_follows_the_law_of_beer_and_lambert():
    absorbances = jnp.array([[0.5, 1.0, 0.0], [0.2, 0.0, 2.0]])
    np.testing.assert_allclose(phantom.transmit(jnp.zeros(2), absorbances), 1)
    np.testing.assert_allclose(
        phantom.transmit(jnp.array([2.0, 0.5]), absorbances), [10**-1.1, 10**-2, 10**-1], rtol=1e-6
    )
