"""Trained PyTorch networks as heads."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.runtime.errors import InputError, of_callback

torch = pytest.importorskip("torch")

from r2l_jax import from_torch  # noqa: E402

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
