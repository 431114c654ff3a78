import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.model.heads import Chosen, outputs_of
from r2l_jax.runtime.errors import InputError


def test_the_order_of_the_classes_counts():
    assert outputs_of("tench, Tinca:0,crane:1+3", ("crane", "tench, Tinca")) == ((1, 3), (0,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pandas:x,dog:1", "--classes must be pairs such as .*, got 'pandas:x,dog:1'"),
        ("pandas:1", "--classes must name each class of the data once, pandas, dog, got pandas:1"),
        ("pandas:1,dog:2+0+2", "--classes must name each output once, got"),
    ],
)
def test_errors(given, message):
    with pytest.raises(InputError, match=message):
        outputs_of(given, ("pandas", "dog"))


class Fixed(nnx.Module):
    """Returns the logarithms of its images' channels, which stand for probabilities."""

    def __call__(self, images):
        return jnp.log(images).reshape(len(images), -1)


def test_probabilities_of_joined_outputs_add_up():
    images = jnp.array(np.random.default_rng(0).random((2, 1, 2, 3), np.float32))
    chances = images.reshape(2, 6)
    logits = Chosen(Fixed(), ((5,), (0, 2)))(images)
    wanted = np.stack([chances[:, 5], chances[:, 0] + chances[:, 2]], 1)
    np.testing.assert_allclose(nnx.softmax(logits), wanted / wanted.sum(1, keepdims=True), rtol=1e-5)
    # An object is looked for among everything else.
    (logit,) = Chosen(Fixed(), ((1, 4),))(images).T
    wanted = (chances[:, 1] + chances[:, 4]) / chances.sum(1)
    np.testing.assert_allclose(nnx.sigmoid(logit), wanted, rtol=1e-5)
    with pytest.raises(InputError, match="--classes names the output 6, and the network has 6, from 0"):
        Chosen(Fixed(), ((6,), (0,)))(images)
