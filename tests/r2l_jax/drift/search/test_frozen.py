import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.config import AUX_LOSSES
from r2l_jax.drift.search.frozen import deviation, price_factor


@pytest.mark.parametrize("aux_loss", AUX_LOSSES)
def test_more_deviation_always_costs_more(aux_loss):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((1, 16, 16, 3), np.float32))
    away = jnp.asarray(rng.normal(size=image.shape).astype(np.float32))
    costs = [float(deviation(image + amount * away, image, aux_loss)) for amount in (0.0, 0.01, 0.03, 0.1, 0.3)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(costs) > 0).all()


def test_the_price_of_l2_sum_is_paid_on_the_sum_over_a_batch():
    rng = np.random.default_rng(0)
    images, default = (jnp.asarray(rng.random((4, 6, 5, 3), np.float32)) for _ in range(2))
    paid = price_factor(images, "l2_sum") * deviation(images, default, "l2_sum")
    assert float(paid) == pytest.approx(np.square(np.asarray(images) - np.asarray(default)).sum(), rel=1e-6)
    assert price_factor(images, "ssim") == price_factor(images, "l2") == 1
