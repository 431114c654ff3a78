import numpy as np
import pytest
from small_runs import history, metrics, model

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.drift.forensics.attack import Attack, rule_of
from r2l_jax.drift.search.ranges import deviation
from r2l_jax.errors import InputError
from r2l_jax.training import train
from r2l_jax.training.plan import Plan
from r2l_jax.training.run import load
from r2l_jax.training.steps import GradientDescent, make_steps


@pytest.fixture(scope="module")
def attacked(base, one_epoch):
    """A finished attack on a trained model, in 5 batches an epoch, that recorded all it can."""
    config = replace(
        base,
        run_name="attacked",
        processor_uri=str(one_epoch.run_dir),
        classifier_uri=str(one_epoch.run_dir),
        batch_size=6,
        lr=1e-2,
        augmentation="weak",
        adv_training=True,
        adv_aux_weight=0.01,
        adv_noise_layer=True,
        adv_track_differences=True,
        track=("arrays",),
        track_n_images=2,
        save_locally=True,
    )
    return config, train.run(config, Attack)


def moved(before, config):
    """The variables that an attack has changed."""
    return {name for name, value in model(config).items() if name in before and (value != before[name]).any()}


@pytest.mark.shows("train --adv_training --adv_noise_layer --processor_uri")
def test_the_task_loss_rises_and_only_the_processor_moves(one_epoch, attacked):
    config, summary = attacked
    assert (rule_of(config), rule_of(one_epoch)) == (Attack, GradientDescent)
    before, after = model(one_epoch), model(config)
    assert after.pop("processor.additive_layer").any()
    assert after.keys() == before.keys()
    assert moved(before, config) == {name for name in before if name.startswith("processor.")}
    by_default = summary["default_val_loss"]["mean"]
    assert by_default == pytest.approx(metrics(one_epoch)["val_loss"], rel=1e-4)
    assert summary["val_loss"]["mean"] > by_default + 0.01
    lowest = min(history(config), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert metrics(config)["best_epoch"] == lowest["epoch"]


def test_of_epochs_with_one_score_the_strongest_attack_is_best(attacked):
    plan = Plan(attacked[0])
    fold = train.FoldTraining(plan, make_steps(plan.steps, Attack), plan.folds[0])
    losses = enumerate([1.0, 3.0, 3.0, 2.0])
    fold.history = [{"epoch": epoch, "val_accuracy": 0.25, "val_loss": loss} for epoch, loss in losses]
    assert fold._best is fold.history[1]


def test_deviation_is_that_from_the_earlier_run_s_rendering(attacked):
    """Its mean over 8 samples, which do not fill two batches of 6."""
    config, _ = attacked
    (learned,), (fold,) = load(config.processing.processor_uri), load(config.run_dir)
    raws, _ = fold.dataset.samples(fold.split.valid)
    away = deviation(fold.model.processor(raws), learned.model.processor(raws), "ssim")
    row = history(config)[metrics(config)["best_epoch"]]
    assert row["val_deviation"] == pytest.approx(float(away), rel=1e-4)
    assert float(away) > 1e-3


@pytest.mark.shows("train --adv_track_differences")
def test_differences_are_recorded(attacked):
    config, _ = attacked
    folder = config.run_dir / "fold_0"
    default, adversarial, difference = (
        np.load(folder / f"results/epoch_0001/differences/{name}.npy")
        for name in ("0_default", "1_adversarial", "2_difference")
    )
    assert (default != adversarial).any()
    np.testing.assert_allclose(difference, 0.5 + (adversarial - default) / 2)
    (learned,) = load(config.processing.processor_uri)
    raws, _ = learned.dataset.samples(np.arange(2))
    # In linear light, since the tone curve is steep near black.
    np.testing.assert_allclose(learned.model.processor(raws) ** 2.2, default**2.2, atol=1e-5)


def test_refuses_a_parameter_that_the_pipeline_lacks_before_it_trains(attacked):
    config = replace(attacked[0], run_name="refused", adv_parameters="additive_layer", adv_noise_layer=False)
    with pytest.raises(InputError, match=r"^`adv_parameters` must be one of all, .*; give `adv_noise_layer` as well$"):
        train.run(config, Attack)
    assert not (config.run_dir / "fold_0").exists()


def test_refuses_a_second_noise_layer(attacked):
    steps, camera = Plan(attacked[0], Attack).steps, isp.CAMERAS["drone"]
    Attack.check(steps, isp.parametrized(camera))
    with pytest.raises(InputError, match=r"^`adv_noise_layer`: .* already has an additive_layer$"):
        Attack.check(steps, isp.parametrized(camera, additive_layer=(16, 16)))


@pytest.mark.shows("train --adv_parameters --adv_aux_loss --adv_aux_weight")
def test_only_the_parameters_that_are_named_move_and_by_less_at_a_price(base, one_epoch):
    """The weight of an l2 distance, which is not the SSIM of the other runs, keeps the image close to the default."""
    uri, away = str(one_epoch.run_dir), {}
    settings = {"processor_uri": uri, "classifier_uri": uri, "lr": 0.05, "augmentation": "none", "epochs": 1}
    settings |= {"adv_training": True, "adv_parameters": "gamma_correct", "log_model": False, "save_locally": True}
    for weight in (0.0, 1e4):
        config = replace(base, run_name=f"l2_{weight:g}", adv_aux_loss="l2", adv_aux_weight=weight, **settings)
        train.run(config, Attack)
        assert moved(model(one_epoch), config) == {"processor.gamma_correct"}
        (learned,), (fold,) = load(uri), load(config.run_dir / "fold_0/model.safetensors", checkpoint="last")
        raws, _ = learned.dataset.samples(learned.split.valid)
        away[weight] = history(config)[0]["val_deviation"]
        pairs = [*zip(*(each.model.processor(raws)[:, None] for each in (fold, learned)), strict=True)]
        expected, other = (np.mean([deviation(*pair, loss) for pair in pairs]) for loss in ("l2", "ssim"))
        assert away[weight] == pytest.approx(expected, rel=1e-3)
        assert abs(other / expected - 1) > 0.1
    assert away[1e4] < 0.2 * away[0.0]
