import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.model import class_outputs
from r2l_jax.model.heads import Chosen
from r2l_jax.runtime.errors import InputError

NAMES = """n01440764 tench, Tinca tinca
n02012849 crane
n02510455 giant panda, panda
n03126707 crane
"""


@pytest.fixture
def names(tmp_path):
    (tmp_path / "names.txt").write_text(NAMES)
    return str(tmp_path / "names.txt")


def test_a_file_of_names_gives_each_class_its_outputs(names):
    classes = ("Crane", "tench, tinca tinca", "n02510455")
    assert class_outputs.groups(names, classes) == ((1, 3), (0,), (2,))
    assert class_outputs.groups(class_outputs.pairs(names, classes), classes) == ((1, 3), (0,), (2,))
    other = ("Crane", "Tinca_tinca")
    pairs = class_outputs.pairs(names, other)
    assert pairs == "Crane:1+3,Tinca_tinca:0"
    assert class_outputs.groups(pairs, other) == ((1, 3), (0,))
    with pytest.raises(InputError, match="output 0 must be named once, got 'Tinca_tinca' and 'tench' for it"):
        class_outputs.pairs(names, (*other, "tench"))
    # The order of the classes counts, not that of the pairs.
    assert class_outputs.pairs("Tinca_tinca:0,Crane:1+3", other) == pairs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{names}", "names.txt: none of its 4 lines names the class 'pandas'; did you mean 'panda'"),
        ("missing.txt", "--classes=missing.txt: No such file or directory"),
        ("pandas:x,dog:1", "--classes must be a file of names, or pairs such as .*, got 'pandas:x,dog:1'"),
        ("pandas:1", "--classes: no output for the class 'dog'"),
        ("pandas:1,dog:2,cat:3", "--classes: the data has no class 'cat'; its classes are pandas, dog"),
        ("pandas:1,dog:2,pandas:3", r"--classes names the class 'pandas' twice: join its outputs, as in pandas:1\+3"),
        ("pandas:1,dog:1", "--classes: output 1 must be named once, got 'pandas' and 'dog' for it"),
        ("pandas:1,dog:2+0+2", "--classes: output 2 must be named once, got 'dog' and 'dog' for it"),
    ],
)
def test_errors_in_one_line(names, given, message):
    with pytest.raises(InputError, match=message) as error:
        class_outputs.pairs(given.replace("{names}", names), ("pandas", "dog"))
    assert "\n" not in str(error.value)


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
