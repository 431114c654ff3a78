"""Heads of the user's own files, in Flax: trained, found again and used as ours."""

import numpy as np
import own_code
import pytest
from flax import nnx
from programs import call
from small_runs import metrics, model

import r2l_jax
from r2l_jax.model.heads import find_head
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train
from r2l_jax.training.run import load

CODE = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, classes, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, images):
        return self.last(nnx.relu(self.norm(self.conv(images))).mean((1, 2)))

def make(classes, rngs):
    return Net(classes, rngs)

def segment(classes, rngs):
    return nnx.Conv(3, classes, (3, 3), rngs=rngs)
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return own_code.write(tmp_path_factory.mktemp("own") / "my_head.py", CODE)


@pytest.fixture(scope="module")
def trained(base, head):
    """A run of two epochs with this head."""
    config = replace(base, run_name="own_head", classifier_network=head, save_locally=True)
    train.run(config)
    return config


def found(name, **settings):
    return find_head(build(NetworkSettings, classifier_network=name, **settings), tuple("abcde"))


def test_it_is_trained_and_its_file_recorded(trained, head):
    content = metrics(trained)
    file, function = head.rsplit(":", 1)
    assert (content["head"]["file"], content["head"]["function"]) == (file, function)
    arrays = model(trained)
    drawn = dict(nnx.to_flat_state(nnx.state(found(head)(5, nnx.Rngs(0)))))
    assert arrays["head.last.kernel"].shape == drawn["last", "kernel"][...].shape
    # The batch norm has moved from its start, and so has the scale that is learned with it.
    assert (arrays["head.norm.mean"] != 0).all()
    assert (arrays["head.norm.scale"] != 1).any()


def test_it_predicts_from_its_folder_and_from_its_file(trained, head):
    raws = np.random.default_rng(0).random((3, 32, 32), np.float32)
    run = r2l_jax.load(trained.run_dir, code=head)
    probabilities = run.predict(raws)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    file = r2l_jax.load(trained.run_dir / "fold_0" / "model.safetensors", code=head)
    np.testing.assert_array_equal(file.predict(raws), probabilities)
    assert file.identity == run.identity


def test_a_run_is_loaded_with_the_file_that_it_was_trained_with_alone(trained, tmp_path):
    moved, other = (own_code.write(tmp_path / f"{name}.py", CODE + end) for name, end in (("a", ""), ("b", "\n")))
    (fold,) = load(trained.run_dir, code=moved)
    assert fold.config.model.classifier_network == moved
    with pytest.raises(InputError, match=r"give --code=.*my_head.py:make; --code=.*b.py:make is another$"):
        load(trained.run_dir, code=other)


def test_training_goes_on_with_the_same_file_wherever_it_is_and_with_no_other(trained, tmp_path):
    moved, other = (own_code.write(tmp_path / f"{name}.py", CODE + end) for name, end in (("a", ""), ("b", "\n")))
    before = metrics(trained)["history"]
    train.run(replace(trained, classifier_network=moved))
    assert metrics(trained)["history"] == before
    with pytest.raises(InputError, match=r"another run \(head was 'make of a file of SHA-256 .*, is 'make of a file"):
        train.run(replace(trained, classifier_network=other))
    with pytest.raises(InputError, match=r"another run \(head was 'make of a file of SHA-256 \w+', is 'ResNet18'"):
        train.run(replace(trained, classifier_network="resnet18"))


def test_it_segments(base, head):
    file = head.removesuffix(":make")
    settings = {"dataset": "SyntheticSegmentation", "augmentation": "weak", "epochs": 1}
    config = replace(base, run_name="own_mask", classifier_network=f"{file}:segment", **settings)
    train.run(config)
    masks = r2l_jax.load(config.run_dir, code=f"{file}:segment").predict(np.zeros((1, 34, 38), np.float32))
    assert masks.shape == (1, 34, 38)  # A size that a U-Net++ does not take.


def test_the_head_is_recognized_by_its_content(head, tmp_path):
    same, other = (own_code.write(tmp_path / f"{name}.py", CODE + end) for name, end in (("a", ""), ("b", "\n")))
    assert found(head) == found(same)
    assert hash(found(head)) == hash(found(same))
    assert found(head) != found(other)
    assert found("ResNet34") is None
    assert found("resnet34") is None


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(): return 1", "must return a flax.nnx.Module, a torch.nn.Module or the result of .*, got int"),
        ("def make(classes):\n    raise KeyError('x')", "raised KeyError: 'x' \\(line 2\\)"),
        ("def make(width): pass", "raised TypeError: make\\(\\) missing 1 required positional argument: 'width'"),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Dropout(0.5, rngs=rngs)",
            "has the variable rngs.count of uint32: a head holds float32 alone, and no random state",
        ),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Conv(3, 5, (3, 3), rngs=rngs)",
            r"must return logits \(2, 5\) for images \(2, 32, 32, 3\) of this data, got \(2, 32, 32, 5\)",
        ),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Linear(4, 5, rngs=rngs)",
            r"does not take images \(2, 32, 32, 3\): TypeError",
        ),
    ],
)
def test_errors_in_one_line(base, tmp_path, code, message):
    name = own_code.write(tmp_path / "my_head.py", code)
    with pytest.raises(InputError, match=f"--classifier_network={name} {message}") as error:
        train.run(replace(base, run_name="wrong", classifier_network=name))
    assert "\n" not in str(error.value)
    assert not (base.run_dir.parent / "wrong").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--classifier_network=ResNet19"], "must be one of ResNet18, ResNet34, Resnet50, a function of a file"),
        (["--classifier_network=my_head.py"], "must be the function in a file that makes the head, as my_file.py:make"),
        (["--classifier_network=my_head.py:make", "--classifier_pretrained"], "--classifier_pretrained is for the kn"),
        (["--classifier_network=my_head.py:make"], "my_head.py: No such file or directory"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    result = call("train.py", *flags, "--synthetic_images=40", "--synthetic_size=32")
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
