import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_runs import model, stop_at

from r2l_jax.cli.flags import replace
from r2l_jax.cli.stop import Interrupted
from r2l_jax.data import loader
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.training import train
from r2l_jax.training.plan import Batches
from r2l_jax.training.settings import PUBLISHED_OPTIMIZATION, OptimizationSettings
from r2l_jax.training.steps import StepSettings, make_steps

STEPS = 10


def published(**settings):
    """The settings of the published program: Adam at a constant rate, with changes."""
    return OptimizationSettings(**{**PUBLISHED_OPTIMIZATION, **settings})


def rates(**settings):
    rate = published(lr=0.5, **settings).build(STEPS).rate.schedule()
    return [float(rate(step)) for step in range(settings.get("epochs", 3) * STEPS + 1)]


@pytest.mark.shows("train --lr --schedule --warmup_epochs")
def test_a_cosine_falls_to_zero_after_the_warm_up():
    found = rates(epochs=4, schedule="cosine", warmup_epochs=1.0)
    np.testing.assert_allclose(found[:11], 0.05 * np.arange(11), atol=1e-7)
    expected = [0.25 * (1 + math.cos(math.pi * step / 30)) for step in range(31)]
    np.testing.assert_allclose(found[10:], expected, atol=1e-7)


def test_adam_moves_a_constant_slope_by_the_scheduled_rate():
    settings = {"epochs": 2, "schedule": "cosine", "warmup_epochs": 1.0}
    optimizer, slope = published(lr=0.5, **settings).build(STEPS).transformation(), {"a": jnp.full(2, 3.0)}
    state, found = optimizer.init(slope), []
    for _ in range(2 * STEPS):
        updates, state = optimizer.update(slope, state)
        found.append(-updates["a"][0])
    # The mean of squares is divided by 1 - 0.999**step: 0.999 rounds by 2**-24, which is 6e-5 of the rest, and the root
    # halves that.
    np.testing.assert_allclose(found, rates(**settings)[: 2 * STEPS], rtol=5e-5, atol=1e-7)


@pytest.mark.shows("train --optimizer")
def test_sgd_has_a_nesterov_momentum():
    optimizer, slope = published(lr=0.5, optimizer="sgd").build(STEPS).transformation(), {"a": jnp.full(2, 3.0)}
    state = optimizer.init(slope)
    for factor in (1.9, 2.71, 3.439):
        updates, state = optimizer.update(slope, state)
        np.testing.assert_allclose(updates["a"], -0.5 * 3 * factor, rtol=1e-6)


def test_an_epoch_has_whole_batches():
    assert [Batches.of(*each) for each in ((32, 8), (32, 5), (32, 100))] == [(8, 4), (5, 6), (32, 1)]
    with pytest.raises(InputError, match=r"at least one training sample per device \(1\), got 0"):
        Batches.of(0, 8)


def test_by_default_a_decaying_optimizer_warms_up_for_a_fifteenth_of_the_epochs_and_follows_a_cosine():
    made = OptimizationSettings(epochs=30).build(STEPS)
    assert (made.name, made.weight_decay) == ("adamw", 0.05)
    assert (made.rate.peak, made.rate.warmup, made.rate.end) == (1e-3, 2 * STEPS, 30 * STEPS)


@pytest.mark.shows("train --weight_decay")
def test_weight_decay_is_for_the_kernels_of_the_head():
    parameters = {
        "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "processor": {"colour_correction": jnp.ones((3, 3))},
    }
    nothing = jax.tree.map(jnp.zeros_like, parameters)
    optimizer = published(lr=0.1, optimizer="adamw", weight_decay=0.5).build(STEPS).transformation()
    updates, _ = optimizer.update(nothing, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.05, rtol=1e-6)
    assert not updates["head"]["bias"].any()
    assert not updates["processor"]["colour_correction"].any()


@pytest.mark.shows("train --label_smoothing --class_weights")
def test_by_default_targets_are_smoothed_and_balanced_classes_weigh_the_same_together():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    task = OptimizationSettings().loss_of(Classification(("a", "b", "c", "d"), "resnet18"), labels, False)
    weights = np.array(task.class_weights)
    np.testing.assert_allclose(weights[labels].mean(), 1)
    np.testing.assert_allclose(weights[[0, 1, 3]] * [6, 3, 1], 10 / 3)
    assert task.smoothing == 0.1
    logits = jnp.array(np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32))
    batch = {"raw": None, "target": jnp.array(labels), "index": None, "weight": jnp.ones(10)}
    mixture = 0.9 * jax.nn.one_hot(labels, 4) + 0.1 / 4
    losses = optax.softmax_cross_entropy(logits, mixture) * weights[labels]
    # Two means of ten sums of four terms round by up to 14 * 2**-24 each, and a few times more in softmax.
    np.testing.assert_allclose(task.loss(logits, batch), losses.mean(), rtol=3e-6)
    plain = OptimizationSettings(label_smoothing=0.3, class_weights="none")
    task = plain.loss_of(Classification(("a", "b", "c", "d"), "resnet18"), labels, False)
    losses = optax.softmax_cross_entropy(logits, 0.7 * jax.nn.one_hot(labels, 4) + 0.3 / 4)
    np.testing.assert_allclose(task.loss(logits, batch), losses.mean(), rtol=3e-6)


def test_only_a_frozen_head_under_drawn_cameras_may_guess():
    task, labels, drawn = (
        Classification(("a", "b"), "resnet18"),
        np.array([0, 1]),
        {"camera_augmentation": ("light",), "label_smoothing": 0.0},
    )
    guessed = [
        OptimizationSettings(**settings).loss_of(task, labels, frozen).guessed
        for settings, frozen in (({}, True), (drawn, False), (drawn, True))
    ]
    assert guessed == [0, 0, 0.1]
    batch = {"raw": None, "target": jnp.array(labels), "index": None, "weight": jnp.ones(2)}
    hopeless = jnp.array([[-50.0, 50.0], [50.0, -50.0]])
    trained = OptimizationSettings(**drawn).loss_of(task, labels, True)
    np.testing.assert_allclose(trained.loss(hopeless, batch), np.log(20), rtol=1e-5)


@pytest.mark.shows("train --ema")
def test_averaged_weights_are_those_of_all_updates(base):
    """The model is the average; the next update starts from the latest one."""
    config = replace(base, lr=1e-2, ema=0.5, processing_mode="static")
    dataset = datasets.load("Synthetic", **base.data.source)
    batches = list(loader.eval_batches(dataset, np.arange(24), 8))
    key, average = jax.random.key(0), None
    settings = (StepSettings.of(each, dataset, 4) for each in (replace(config, ema=0.0), config))
    plain, averaging = map(make_steps, settings)
    latest, state = (each.begin(each.init(key)) for each in (plain, averaging))
    for number, batch in enumerate(batches):
        before = nnx.to_pure_dict(latest.model) if average is None else average
        before = jax.tree.map(np.asarray, before)
        latest, _ = plain.train(latest, batch, key)
        state, _ = averaging.train(state, batch, key)
        decay = min(0.5, (1 + number) / (10 + number))
        kept = jax.tree.map(functools.partial(np.multiply, decay), before)
        added = jax.tree.map(functools.partial(np.multiply, 1 - decay), nnx.to_pure_dict(latest.model))
        average = jax.tree.map(np.add, kept, added)
    for expected, found in zip(jax.tree.leaves(average), jax.tree.leaves(nnx.to_pure_dict(state.model)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
def test_averaged_weights_go_on_where_they_were_stopped(base):
    settings = {"ema": 0.9, "optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1.0, "save_locally": True}
    whole, parts = (replace(base, run_name=name, epochs=3, **settings) for name in ("whole", "parts"))
    train.run(whole)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Interrupted):
            train.run(parts)
    train.run(parts)
    for name, value in model(parts).items():
        np.testing.assert_allclose(value, model(whole)[name], rtol=1e-5, atol=1e-6, err_msg=name)
