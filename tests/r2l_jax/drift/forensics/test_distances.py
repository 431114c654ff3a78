import brightness
import jax.numpy as jnp
import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

import tasks
from r2l_jax.drift.forensics.distances import compared, deviations, distances
from r2l_jax.drift.measure import Samples


def test_distances_are_those_of_each_image_from_its_default_rendering():
    dataset = brightness.dark_images(np.linspace(0.05, 0.45, 10), side=8)
    frozen = brightness.frozen(dataset)
    gains = [frozen.default | {"white_balance": np.full(3, gain, np.float32)} for gain in (1.0, 2.0)]
    # The last batch is not full.
    samples = Samples(frozen.task, dataset, np.arange(10), 4)
    same, brighter = compared(distances, frozen, gains, samples, "")
    before, after = (np.asarray(frozen.pipeline(values)(dataset.samples(np.arange(10))[0])) for values in gains)
    np.testing.assert_allclose(same["ssim"], 1, atol=1e-5)
    # Both images are computed, and may be rounded differently.
    for name in ("change", "color", "color_95"):
        np.testing.assert_allclose(same[name], 0, atol=1e-4)
    color = deltaE_ciede2000(rgb2lab(before), rgb2lab(after))
    np.testing.assert_allclose(brighter["change"], np.abs(after - before).max((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(brighter["color"], color.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(brighter["color_95"], np.percentile(color, 95, (1, 2)), rtol=1e-4)
    ssim = [float(tasks.losses.ssim(*map(jnp.asarray, images))) for images in zip(before, after, strict=True)]
    np.testing.assert_allclose(brighter["ssim"], ssim, rtol=1e-5)
    _, squares = compared(deviations("l2"), frozen, gains, samples, "")
    np.testing.assert_allclose(squares["deviation"], np.square(after - before).mean((1, 2, 3)), rtol=1e-5)
