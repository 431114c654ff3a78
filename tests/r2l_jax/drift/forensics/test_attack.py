import contextlib
import io
import signal

import jax
import numpy as np
import pytest
from small_runs import history, metrics, model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r2l_jax.data import loader
from r2l_jax.data.sets import datasets
from r2l_jax.drift.forensics.attack import Attack
from r2l_jax.drift.search.descent import deviation
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training import steps, train
from r2l_jax.training.run import open_runs
from r2l_jax.training.update import StepSettings


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
        track_save_tensors=True,
        track_n_images=2,
        save_locally=True,
    )
    return config, train.run(config, Attack)


def test_the_task_loss_rises_and_only_the_processor_moves(one_epoch, attacked):
    config, summary = attacked
    before, after = model(one_epoch), model(config)
    assert after.pop("processor.additive_layer").any()
    assert after.keys() == before.keys()
    for name, value in after.items():
        if name.startswith("processor."):
            assert (value != before[name]).any(), name
        else:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    by_default = summary["default_val_loss"]["mean"]
    assert by_default == pytest.approx(metrics(one_epoch)["val_loss"], rel=1e-4)
    assert summary["val_loss"]["mean"] > by_default + 0.01
    lowest = min(history(config), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert metrics(config)["best_epoch"] == lowest["epoch"]


def test_deviation_is_that_from_the_earlier_run_s_rendering(attacked):
    """Its mean over 8 samples, which do not fill two batches of 6."""
    config, _ = attacked
    (learned,), (fold,) = open_runs([config.processing.processor_uri, str(config.run_dir)])
    raws, _ = fold.dataset.samples(fold.valid_indices)
    away = deviation(fold.model.processor(raws), learned.model.processor(raws), "ssim")
    row = history(config)[metrics(config)["best_epoch"]]
    assert row["val_deviation"] == pytest.approx(float(away), rel=1e-4)
    assert float(away) > 1e-3


def test_differences_are_recorded(attacked):
    config, _ = attacked
    folder = config.run_dir / "fold_0"
    default, adversarial, difference = (
        np.load(folder / f"results/epoch_0001/differences/{name}.npy")
        for name in ("0_default", "1_adversarial", "2_difference")
    )
    assert (default != adversarial).any()
    np.testing.assert_allclose(difference, 0.5 + (adversarial - default) / 2)
    ((learned,),) = open_runs([config.processing.processor_uri])
    raws, _ = learned.dataset.samples(np.arange(2))
    np.testing.assert_allclose(learned.model.processor(raws), default, atol=1e-5)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"differences/0_default", "differences/2_difference"} <= set(events.Tags()["images"])
    for tag in ("deviation/train", "deviation/val", "processor_gradient_norm/gamma_correct"):
        assert [event.step for event in events.Scalars(tag)] == [0, 1]
        assert all(event.value > 0 for event in events.Scalars(tag)), tag


@pytest.fixture(scope="module")
def untrained(attacked):
    """An attack far out on a few parameters of a model that no earlier run provides, and what was said of it."""
    config = replace(
        attacked[0],
        run_name="untrained",
        processor_uri=None,
        classifier_uri=None,
        epochs=1,
        lr=100.0,
        adv_parameters="gamma_correct,black_level,white_balance",
        adv_noise_layer=False,
        adv_aux_loss="l2",
        adv_aux_weight=0.0,
    )
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        train.run(config, Attack)
    return config, stderr.getvalue()


@pytest.mark.slow
def test_only_the_parameters_named_move_and_stay_valid(untrained):
    config, _ = untrained
    dataset = datasets.load(config.data.dataset, **config.data.source)
    before = config.processing.named_pipeline(dataset.camera).parameters()
    after = {name: model(config)[f"processor.{name}"] for name in before}
    changed = {name for name, value in after.items() if (value != np.asarray(before[name])).any()}
    assert changed == set(config.attack.adv_parameters.split(","))
    # A little beyond a hundredth and a hundred times, since these are rounded.
    for name in ("gamma_correct", "white_balance"):
        factor = after[name] / np.asarray(before[name])
        assert ((factor > 0.00999) & (factor < 100.1)).all(), name
    lowest = np.minimum(0, before["black_level"])
    assert ((after["black_level"] > lowest - 1e-6) & (after["black_level"] < 0.951)).all()


@pytest.mark.slow
def test_an_untrained_head_is_attacked_with_a_warning_and_sees_normalized_images(untrained):
    config, stderr = untrained
    warning = "warning: --adv_training without --classifier_uri attacks a head untrained for the task\n"
    assert stderr.count(warning) == 1
    dataset = datasets.load(config.data.dataset, **config.data.source)
    raws, _ = dataset.samples(np.array(metrics(config)["train_indices"]))
    by_default = np.asarray(config.processing.named_pipeline(dataset.camera)(raws))
    np.testing.assert_allclose(model(config)["normalizer.mean"], by_default.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(model(config)["normalizer.var"], by_default.var((0, 1, 2)), rtol=1e-3)


@pytest.mark.slow
def test_an_interrupted_attack_goes_on_to_the_same_end(attacked, monkeypatch):
    whole, _ = attacked
    config = replace(whole, run_name="stopped")
    train_batches = loader.train_batches

    def stopping(*arguments):
        for number, batch in enumerate(train_batches(*arguments), 1):
            if number == 7:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loader, "train_batches", stopping)
        with pytest.raises(Interrupted, match="stopped at step 7 of 10; the same command resumes"):
            train.run(config, Attack)
    train.run(config, Attack)
    assert history(config) == history(whole)
    uninterrupted = model(whole)
    for name, value in model(config).items():
        np.testing.assert_array_equal(value, uninterrupted[name], err_msg=name)
    with pytest.raises(InputError, match=r"holds another run \(adv_aux_weight was 0.01, is 2.0\)"):
        train.run(replace(config, adv_aux_weight=2.0), Attack)


def test_a_second_batch_does_not_compile_again(attacked, caplog):
    config, _ = attacked
    dataset = datasets.load(config.data.dataset, **config.data.source)
    compiled = steps.make_steps(StepSettings.of(config, dataset, 4), Attack)
    key = jax.random.key(0)
    state = compiled.begin(compiled.init(key))
    batches = loader.train_batches(dataset, np.arange(32), 6, seed=0)
    with jax.log_compiles():
        for _ in range(3):
            state, _ = compiled.train(state, to_devices(next(batches), shardings().split), key)
    assert len([line for line in caplog.messages if line.startswith("Compiling jit(_trained)")]) <= 1
    assert int(state.step) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": "gamma_correct,hue"}, "--adv_parameters must be of all, black_level, .* got 'hue'"),
        (
            {"adv_parameters": "additive_layer", "adv_noise_layer": False},
            "--adv_parameters must be of all, .* got 'additive_layer'; give --adv_noise_layer as well",
        ),
    ],
)
def test_refuses_parameters_that_the_pipeline_lacks_before_it_trains(attacked, change, message):
    config = replace(attacked[0], run_name="refused", **change)
    with pytest.raises(InputError, match=f"^{message}$"):
        train.run(config, Attack)
    assert not (config.run_dir / "fold_0").exists()
