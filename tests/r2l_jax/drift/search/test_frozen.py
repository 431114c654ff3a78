import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.drift.search.frozen import deviation


@pytest.mark.parametrize("aux_loss", ["ssim", "l2"])
def test_more_deviation_always_costs_more(aux_loss):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((1, 16, 16, 3), np.float32))
    away = jnp.asarray(rng.normal(size=image.shape).astype(np.float32))
    costs = [float(deviation(image + amount * away, image, aux_loss)) for amount in (0.0, 0.01, 0.03, 0.1, 0.3)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(costs) > 0).all()
