"""Trained PyTorch networks as heads."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.errors import InputError, of_callback

torch = pytest.importorskip("torch")

from r2l_jax import from_torch  # noqa: E402
from r2l_jax.model.heads import weights_of  # noqa: E402

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Net(torch.nn.Module):
    """A small network with a batch norm, and without symmetries between height, width and channels."""

    def __init__(self, classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(3, 6, (3, 2), stride=(2, 1))
        self.norm = torch.nn.BatchNorm2d(6)
        self.last = torch.nn.Linear(6, classes)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        features = torch.nn.functional.gelu(self.norm(self.conv(images)))
        rows = torch.linspace(1, 2, features.shape[2])[:, None]
        return self.last((features * rows).mean((2, 3)))


@pytest.fixture
def module():
    return Net().eval()


@pytest.fixture
def head(module):
    return from_torch(module, MEAN, STD)


def in_torch(module, images, weights=1.0):
    """Logits, and the gradient of their weighted sum for the images, by PyTorch alone."""
    leaf = torch.tensor(np.asarray(images), requires_grad=True)
    logits = module(((leaf - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2))
    (gradient,) = torch.autograd.grad((logits * torch.tensor(weights)).sum(), leaf)
    return logits.detach().numpy(), gradient.numpy()


@pytest.mark.shows("r2l_jax.from_torch(module, mean, std)")
@pytest.mark.parametrize("compiled", [False, True])
def test_logits_and_gradient_are_those_of_pytorch(head, module, compiled):
    weights = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    wanted = in_torch(module, IMAGES, weights)
    function = jax.jit(head) if compiled else head
    logits, pull_back = jax.vjp(function, jnp.array(IMAGES))
    np.testing.assert_allclose(logits, wanted[0], atol=1e-6)
    np.testing.assert_allclose(pull_back(jnp.array(weights))[0], wanted[1], atol=1e-6)
    np.testing.assert_allclose(function(IMAGES), wanted[0], atol=1e-6)


def test_searches_that_run_together_reach_it_in_one_call(head, module):
    stack = np.random.default_rng(2).random((3, 2, 4, 8, 8, 3), np.float32)
    gradient = jax.grad(lambda images: jnp.square(head(images)).sum())
    found = jax.jit(jax.vmap(jax.vmap(gradient)))
    jax.block_until_ready(found(stack))
    module.calls = 0
    together = found(stack)
    jax.block_until_ready(together)
    assert module.calls == 1
    np.testing.assert_allclose(together[2, 1], gradient(stack[2, 1]), atol=1e-6)


def test_a_gradient_uses_the_forward_call_of_its_own_images(head, module):
    other, ones = IMAGES[::-1].copy(), jnp.ones((4, 5))
    first, _ = (jax.vjp(head, images)[1] for images in (IMAGES, other))
    # The latest call was of other images, as in another thread: the logits are computed again.
    np.testing.assert_allclose(first(ones)[0], in_torch(module, IMAGES)[1], atol=1e-6)
    _, latest = jax.vjp(head, other)
    wanted, module.calls = in_torch(module, other)[1], 0
    np.testing.assert_allclose(latest(ones)[0], wanted, atol=1e-6)
    assert module.calls == 0


@pytest.mark.shows("r2l_jax.from_torch(size)")
def test_the_size_of_the_module(module):
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    assert np.asarray(from_torch(module, size=(10, 12))(IMAGES)).shape == (4, 5)
    assert seen[-1] == (4, 3, 10, 12)
    masks = from_torch(torch.nn.Conv2d(3, 2, 1).eval(), size=4)
    assert masks(IMAGES).shape == (4, 8, 8, 2)


def test_a_module_in_training_is_set_to_evaluation_and_that_is_said_once(capsys):
    module = Net()
    head = from_torch(module)
    from_torch(module)
    jax.jit(head)(IMAGES)
    printed = capsys.readouterr().err
    assert printed == "warning: the module Net was in training mode; switched to evaluation mode\n"
    assert not module.norm.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.Conv2d(4, 5, 3), r"Conv2d rejects images of shape \(B, 3, 8, 8\): RuntimeError: Given groups=1"),
        (torch.nn.AdaptiveMaxPool2d(1, return_indices=True), "got a tuple for 1 images"),
    ],
)
def test_modules_that_do_not_fit(module, message):
    with pytest.raises(InputError, match=message) as error:
        jax.jit(from_torch(module.eval()))(IMAGES)
    assert "\n" not in str(error.value)


def test_logits_that_are_not_numbers_are_named(module, head):
    head(IMAGES)
    module.last.bias.fill_(torch.nan)
    with pytest.raises(Exception, match="NaN logits") as error:
        head(IMAGES)
    assert str(of_callback(error.value)) == "Net returns NaN logits for finite images"
    # Images that are not numbers are not the module's fault.
    assert np.isnan(head(np.full_like(IMAGES, np.nan))).all()


def test_a_machine_of_one_core_gets_a_second_thread_without_which_callbacks_wait_forever(module, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    from_torch(module)
    assert os.environ["NPROC"] == "2"


def test_a_module_without_gradients_says_so(module):
    module.forward = torch.no_grad()(module.forward)
    head = from_torch(module, MEAN, STD)
    assert head(IMAGES).shape == (4, 5)
    with pytest.raises(Exception, match="with a gradient") as error:
        jax.grad(lambda images: head(images).sum())(IMAGES)
    assert str(of_callback(error.value)).startswith("Net must return logits with a gradient for its images")


@pytest.mark.parametrize("first", [lambda images: images.sub_(0.5), torch.nn.ReLU(inplace=True)])
def test_a_first_operation_in_place_leaves_the_images_and_has_a_gradient(first):
    class InPlace(torch.nn.Module):
        def forward(self, images):
            return torch.square(first(images)).sum((2, 3))

    images = jnp.asarray(IMAGES - 0.5)
    before = np.array(images)
    logits, pull_back = jax.vjp(from_torch(InPlace().eval()), images)
    after = before - 0.5 if logits[0, 0] > 8 else np.maximum(before, 0)
    np.testing.assert_allclose(logits, np.square(after).sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pull_back(jnp.ones((4, 3)))[0], 2 * after, atol=1e-6)
    np.testing.assert_array_equal(images, before)


CODE = """
import torch

SHIFT = 0.25

class Tempered(torch.nn.Module):
    factor = 3.0

    def __init__(self, temperature=1.0):
        super().__init__()
        self.temperature, self.offset = temperature, torch.tensor([0.0, 0.5, 1.0])

    def forward(self, images):
        return self.factor * images.mean((2, 3)) / self.temperature + SHIFT + self.offset
"""


def tempered(tmp_path, old="", new="", **settings):
    """A module of no weights, of a class in a file of its own, as of a cell that was run again."""
    file, code = tmp_path / f"{len(list(tmp_path.iterdir()))}.py", CODE.replace(old, new)
    file.write_text(code)
    exec(compile(code, str(file), "exec"), found := {"__name__": "cell"})
    return found["Tempered"](**settings).eval()


def test_networks_of_equal_layers_and_weights_are_computed_apart(tmp_path):
    compute = jax.jit(lambda graph, state, images: nnx.merge(graph, state)(images), static_argnums=0)
    for temperature in (1.0, 2.0):
        logits = compute(*nnx.split(from_torch(tempered(tmp_path, temperature=temperature))), IMAGES)
        wanted = 3 * IMAGES.mean((1, 2)) / temperature + np.array([0.25, 0.75, 1.25])
        np.testing.assert_allclose(logits, wanted, rtol=1e-5)


def test_the_identity_on_disk_has_the_code_and_the_values_that_the_code_reads(tmp_path):
    changes = [
        ("mean((", "amax(("),
        ("factor = 3", "factor = 2"),
        ("SHIFT = 0.25", "SHIFT = 0.5"),
        ("[0.0, ", "[0.1, "),
    ]
    modules = [tempered(tmp_path, *change) for change in (("", ""), *changes)]
    modules += [tempered(tmp_path, temperature=2.0), torch.nn.Sequential(modules[0])]
    hashes = [weights_of(from_torch(each)) for each in modules]
    assert len({*hashes}) == 7
    assert weights_of(from_torch(tempered(tmp_path))) == hashes[0]
    # A head of several networks has all of their hashes.
    assert weights_of(nnx.List([from_torch(each) for each in modules[:2]])) == "+".join(hashes[:2])


def test_classes_without_source_are_named(tmp_path, capsys):
    module = tempered(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    from_torch(torch.nn.Sequential(module))
    assert "the source of Tempered is not available" in capsys.readouterr().err
