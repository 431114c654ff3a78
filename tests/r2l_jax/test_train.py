import dataclasses
import itertools
import json
import signal

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest
import safetensors.numpy
import tifffile
from flax import nnx
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import isp
import tasks
from r2l_jax import folds, steps, train
from r2l_jax.config import TrainConfig
from r2l_jax.data import datasets, loader
from r2l_jax.errors import InputError
from r2l_jax.processing import processing
from r2l_jax.stop import Interrupted, StopSignals
from tasks.layers import BatchNorm, Conv

STAGES = ("demosaic", "color_correct", "sharpening", "gaussian", "clipped", "gamma_correct")


class SmallHead(nnx.Module):
    """Stands for a ResNet, of which training writes three copies to the disk each time that it saves."""

    def __init__(self, channels, num_classes, rngs):
        self.conv1 = Conv(3, channels, 3, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.fc = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.fc(nnx.relu(self.bn1(self.conv1(images))).mean((1, 2)))


class SmallSegmenter(nnx.Module):
    """Stands for a U-Net++."""

    def __init__(self, channels, classes, rngs):
        self.conv1 = Conv(3, channels, 3, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, classes, 3, rngs=rngs)

    def __call__(self, images):
        return self.conv2(nnx.relu(self.bn1(self.conv1(images))))


@pytest.fixture(scope="module", autouse=True)
def _small_heads():
    def resnet(name, *, num_classes, rngs):
        return SmallHead({"resnet18": 8, "resnet34": 16}[name], num_classes, rngs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "resnet", resnet)
        # The few steps of these runs take less time than optimising them.
        patch.setattr(steps, "_compiler_options", lambda: {"xla_backend_optimization_level": 0})
        patch.setattr(tasks, "unet", lambda name, *, classes, rngs, **options: SmallSegmenter(8, classes, rngs))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run that takes seconds: 40 scenes of 32x32, 32 of them to train on, in 4 batches an epoch."""
    folder = tmp_path_factory.mktemp("train")
    return TrainConfig(
        logdir=str(folder / "runs"),
        experiment_name="test",
        data_dir=str(folder / "data"),
        synthetic_images=40,
        synthetic_size=32,
        lr=1e-3,
        epochs=2,
        batch_size=8,
        augmentation="strong",
    )


@pytest.fixture(scope="module")
def finished(base):
    """A finished run of two folds that recorded everything."""
    config = dataclasses.replace(
        base,
        run_name="finished",
        n_splits=2,
        track_processing=True,
        track_processing_gradients=True,
        track_predictions=True,
        track_save_tensors=True,
        track_n_images=3,
        save_locally=True,
    )
    return config, train.run(config)


@pytest.fixture(scope="module")
def one_epoch(base):
    """A finished run whose only epoch is its best and its last, with a model that its file and its checkpoint share."""
    config = dataclasses.replace(base, run_name="one_epoch", epochs=1, save_locally=True)
    train.run(config)
    return config


def metrics(config, fold=0):
    return json.loads((config.run_dir / f"fold_{fold}" / "metrics.json").read_text())


def model(config, fold=0):
    return safetensors.numpy.load_file(config.run_dir / f"fold_{fold}" / "model.safetensors")


def test_metrics_say_what_came_out_and_how_to_do_it_again(finished):
    config, summary = finished
    for fold in range(2):
        content = metrics(config, fold)
        assert content["complete"]
        assert content["flags"] == dataclasses.asdict(config)
        assert content["versions"]["jax"] == jax.__version__
        assert sorted(content["train_indices"] + content["valid_indices"]) == list(range(40))
        assert len(content["history"]) == 2
        assert np.sum(content["val_confusion_matrix"]) == len(content["valid_indices"])
        assert content["val_accuracy"] == np.trace(content["val_confusion_matrix"]) / 8
        assert content["val_loss"] == content["history"][-1]["val_loss"]
        assert set(content["val_f1"]) == set(content["classes"])
        assert summary["val_accuracy"]["folds"][fold] == content["val_accuracy"]
    assert json.loads((config.run_dir / "summary.json").read_text()) == summary
    assert summary["val_loss"]["std"] == np.std(summary["val_loss"]["folds"])
    assert metrics(config, 0)["train_indices"] != metrics(config, 1)["train_indices"]


def test_tensorboard_has_scalars_parameters_pictures_and_hyperparameters(finished):
    config, _ = finished
    events = EventAccumulator(str(config.run_dir / "fold_0"))
    events.Reload()
    tags = events.Tags()
    for tag in ("loss/train", "loss/val", "accuracy/train", "accuracy/val", "learning_rate", "images_per_second"):
        assert [event.step for event in events.Scalars(tag)] == [0, 1], tag
    assert events.Scalars("loss/val")[1].value == pytest.approx(metrics(config)["val_loss"])
    for tag in ("white_balance/0", "colour_correction/2/2", "gamma_correct", "black_level/3"):
        assert f"processor/{tag}" in tags["scalars"]
    assert sorted(tags["histograms"]) == ["processor/debayer", "processor/gaussian_blur"]
    for name in ("black_level", "debayer", "gaussian_blur"):
        assert all(event.value > 0 for event in events.Scalars(f"processor_gradient_norm/{name}"))
    pictures = [f"{group}/{i}_{name}" for group in ("stages", "gradients") for i, name in enumerate(STAGES)]
    assert {*pictures, "predictions", "confusion"} <= set(tags["images"])
    hparams = EventAccumulator(str(config.run_dir / "fold_0" / "hparams"))
    hparams.Reload()
    assert "final/val_accuracy" in hparams.Tags()["scalars"]


def test_results_hold_the_pictures_and_the_tensors_behind_them(finished):
    config, _ = finished
    results = config.run_dir / "fold_0" / "results" / "epoch_0001"
    for (number, name), group in itertools.product(enumerate(STAGES), ("stages", "gradients")):
        tensor = np.load(results / group / f"{number}_{name}.npy")
        assert tensor.shape == (3, 32, 32, 3)
        assert np.abs(tensor).max() > 0
        assert (results / group / f"{number}_{name}.png").is_file()
    assert np.load(results / "predictions_logits.npy").shape == (3, 5)
    assert not list(config.run_dir.rglob("*.part"))


def test_the_last_stage_of_the_trace_is_what_the_saved_parameters_render(finished):
    config, _ = finished
    dataset = datasets.load("Synthetic", data_dir=config.data_dir, synthetic_images=40, synthetic_size=32)
    pipeline = isp.parametrized(dataset.camera)
    for name, value in model(config).items():
        if name.startswith("processor."):
            setattr(pipeline, name.removeprefix("processor."), nnx.Param(jnp.array(value)))
    rgb = pipeline(np.stack([dataset[index][0] for index in range(3)]))
    traced = np.load(config.run_dir / "fold_0" / "results" / "epoch_0001" / "stages" / "5_gamma_correct.npy")
    np.testing.assert_allclose(rgb, traced, atol=1e-5)


def test_training_learns_and_keeps_the_best_epoch(base):
    config = dataclasses.replace(base, run_name="learns", epochs=8, lr=1e-2, augmentation="none")
    train.run(config)
    history = metrics(config)["history"]
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    assert history[-1]["train_accuracy"] > 0.4  # 0.2 by chance
    best = max(range(8), key=lambda epoch: (history[epoch]["val_accuracy"], -history[epoch]["val_loss"]))
    assert metrics(config)["best_epoch"] == best
    (folder,) = (config.run_dir / "fold_0" / "checkpoints" / "best").glob("[0-9]*")
    assert int(folder.name) == 4 * (best + 1)


def test_augmentation_takes_part(base, one_epoch):
    """`one_epoch` differs from this run by its augmentation only."""
    config = dataclasses.replace(base, run_name="plain", epochs=1, augmentation="none")
    train.run(config)
    assert metrics(config)["history"][0]["train_loss"] != metrics(one_epoch)["history"][0]["train_loss"]


def test_a_finished_run_is_not_trained_again_but_adds_what_is_asked_for(base, one_epoch, monkeypatch):
    before = metrics(one_epoch)
    monkeypatch.setattr(train.loader, "train_batches", lambda *arguments: iter(()))
    summary = train.run(one_epoch)
    assert summary["val_loss"]["mean"] == before["val_loss"]
    train.run(dataclasses.replace(one_epoch, track_predictions=True))
    assert (one_epoch.run_dir / "fold_0" / "results" / "epoch_0000" / "predictions.png").is_file()
    assert metrics(one_epoch)["history"] == before["history"]
    assert metrics(one_epoch)["complete"]


def test_more_epochs_continue_a_finished_run_and_fewer_are_refused(base, finished):
    config = dataclasses.replace(base, run_name="longer", epochs=1)
    train.run(config)
    train.run(dataclasses.replace(config, epochs=2))
    assert metrics(config)["history"] == metrics(finished[0])["history"]
    with pytest.raises(InputError, match=r"holds another run \(it has 2 epochs, more than 1\)"):
        train.run(config)


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_an_interrupted_run_goes_on_to_the_same_end(base, finished, monkeypatch, stop_after):
    """Asked to stop within an epoch, at its end, and in the next; then continued by the same call."""
    config = dataclasses.replace(base, run_name=f"stopped_{stop_after}", save_locally=True)
    train_batches = loader.train_batches

    def stopping(*arguments):
        for number, batch in enumerate(train_batches(*arguments), 1):
            if number == stop_after:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    message = "after epoch 1 of 2" if stop_after == 4 else f"at step {stop_after} of 8"
    with monkeypatch.context() as patch:
        patch.setattr(loader, "train_batches", stopping)
        with pytest.raises(Interrupted, match=f"stopped {message}; the same command goes on"):
            train.run(config)
    assert not metrics(config)["complete"]
    train.run(config)
    assert metrics(config)["history"] == metrics(finished[0])["history"]
    uninterrupted = model(finished[0])
    for name, value in model(config).items():
        np.testing.assert_array_equal(value, uninterrupted[name], err_msg=name)


def test_a_signal_stops_between_two_steps_and_a_second_one_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        assert not stop.after_step()
        signal.raise_signal(signal.SIGINT)
        assert stop.after_step()
        assert stop.after_epoch()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_of_other_settings_is_refused_and_overwritten_on_demand(base):
    config = dataclasses.replace(base, run_name="overwritten", epochs=1, test_run=True)
    train.run(config)
    with pytest.raises(
        InputError, match=r"holds another run \(seed was 1, is 2\): choose another --run_name, or start"
    ):
        train.run(dataclasses.replace(config, seed=2))
    train.run(dataclasses.replace(config, seed=2, overwrite=True))
    assert metrics(config)["seed"] == 2


def test_what_overwrite_would_remove_is_not_what_a_run_starts_from(one_epoch):
    config = dataclasses.replace(one_epoch, overwrite=True, classifier_uri=str(one_epoch.run_dir))
    with pytest.raises(InputError, match=r"--classifier_uri=.* is in the run that --overwrite is to remove"):
        train.run(config)
    assert metrics(one_epoch)["complete"]


def test_damaged_and_foreign_files_are_named(base, one_epoch):
    config = dataclasses.replace(base, run_name="damaged", epochs=1)
    fold = config.run_dir / "fold_0"
    fold.mkdir(parents=True)
    (fold / "metrics.json").write_text('{"complete": tr')
    with pytest.raises(InputError, match=r"metrics.json cannot be read .*; start anew with --overwrite"):
        train.run(config)
    (fold / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"metrics.json is not what a run of this program writes; start anew with"):
        train.run(config)
    (fold / "checkpoints" / "best" / "7" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match=r"--classifier_uri=.*damaged holds no checkpoint that can be read"):
        train.run(dataclasses.replace(base, run_name="refused", classifier_uri=str(config.run_dir)))


def test_a_run_is_not_continued_on_other_data(tmp_path, base, write_dng):
    config = dataclasses.replace(
        base, run_name="folder", epochs=1, dataset="Folder", data_dir=str(tmp_path), camera="drone", batch_size=2,
        synthetic_images=None, synthetic_size=None, train_size=0.5,
    )  # fmt: skip
    samples = np.random.default_rng(0).integers(0, 65536, (8, 32, 32)).astype(np.uint16)
    for number, raw in enumerate(samples):
        file = tmp_path / "ab"[number % 2] / f"{number}.tiff"
        file.parent.mkdir(exist_ok=True)
        tifffile.imwrite(file, raw)
    train.run(config)
    (tmp_path / "a" / "0.tiff").rename(tmp_path / "b" / "0.tiff")
    with pytest.raises(InputError, match=r"folder holds another run \(the samples or classes are others\)"):
        train.run(config)
    with pytest.raises(InputError, match=r"--state_dict_uri=.*folder splits other data"):
        train.run(dataclasses.replace(base, run_name="refused", state_dict_uri=str(config.run_dir)))


def test_a_run_that_diverges_says_so(base):
    config = dataclasses.replace(base, run_name="diverged", lr=1e30)
    with pytest.raises(InputError, match="training diverged in epoch 1, to numbers that are not finite: lower --lr"):
        train.run(config)


@pytest.mark.parametrize(
    ("frozen", "kept"), [("freeze_processor", "processor."), ("freeze_classifier", "head.")], ids=["processor", "head"]
)
def test_what_is_frozen_keeps_its_values_and_statistics(base, one_epoch, frozen, kept):
    """Started from an earlier run's processor and head; the other part moves."""
    earlier = str(one_epoch.run_dir)
    config = dataclasses.replace(
        base,
        run_name=frozen,
        epochs=1,
        save_locally=True,
        processor_uri=earlier,
        classifier_uri=earlier,
        **{frozen: True},
    )
    train.run(config)
    before = model(one_epoch)
    for name, value in model(config).items():
        if name.startswith(kept):
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        elif name.startswith(("head.", "processor.")):
            assert (value != before[name]).any(), name
    assert (model(config)["normalizer.mean"] != before["normalizer.mean"]).any()


@pytest.fixture
def weights_file(tmp_path):
    """ImageNet weights, if a small head had any; of a thousand classes, as they come."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (8, 3, 3, 3), "fc.weight": (1000, 8), "fc.bias": (1000,)}
    shapes |= {f"bn1.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    file = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({name: rng.random(shape, np.float32) for name, shape in shapes.items()}, file)
    return file


def test_a_head_starts_from_pretrained_weights(base, weights_file):
    config = dataclasses.replace(
        base, run_name="pretrained", epochs=1, lr=1e-9, save_locally=True,
        classifier_pretrained=True, pretrained_weights=str(weights_file),
    )  # fmt: skip
    train.run(config)
    weights = safetensors.numpy.load_file(weights_file)
    np.testing.assert_allclose(
        model(config)["head.conv1.kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0), atol=1e-7
    )
    assert model(config)["head.fc.kernel"].shape == (8, 5)


def test_bad_weights_are_refused_before_an_earlier_run_is_removed(base, one_epoch):
    config = dataclasses.replace(
        one_epoch, overwrite=True, classifier_pretrained=True, pretrained_weights=str(one_epoch.run_dir / "nothing")
    )
    with pytest.raises(InputError, match=r"--pretrained_weights=.*nothing: No such file"):
        train.run(config)
    assert metrics(one_epoch)["complete"]


def test_the_published_command_of_drift_synthesis_runs(base, tmp_path, weights_file):
    """With all its flags, but fewer splits and epochs."""
    layouts.write_microscopy(tmp_path, images=5, intensities=(0.01,))
    config = TrainConfig(
        logdir=base.logdir, data_dir=str(tmp_path), run_name="published", pretrained_weights=str(weights_file),
        dataset="Microscopy", lr=1e-5, n_splits=2, epochs=1, classifier_pretrained=True, processing_mode="static",
        augmentation="weak", log_model=True, iso=0.01, freeze_processor=True, track_processing=True,
        track_every_epoch=True, track_predictions=True, track_processing_gradients=True, track_save_tensors=True,
    )  # fmt: skip
    summary = train.run(config)
    assert len(summary["val_accuracy"]["folds"]) == 2
    stages = sorted(path.name for path in (config.run_dir / "fold_1/results/epoch_0000/stages").glob("*.npy"))
    assert [stages[0], stages[-1]] == ["0_black_level.npy", "7_gamma_correct.npy"]


def test_another_run_s_split_is_used_again(base, finished):
    config = dataclasses.replace(base, run_name="same_split", seed=5, epochs=1, state_dict_uri=str(finished[0].run_dir))
    train.run(config)
    assert metrics(config)["train_indices"] == metrics(finished[0])["train_indices"]


def test_a_network_in_place_of_the_pipeline_is_trained_and_recorded(base):
    config = dataclasses.replace(
        base, run_name="neural", processing_mode="neural_network", epochs=1, save_locally=True,
        track_processing=True, track_processing_gradients=True, track_save_tensors=True,
    )  # fmt: skip
    train.run(config)
    variables = model(config)
    dataset = datasets.load("Synthetic", data_dir=config.data_dir, synthetic_images=40, synthetic_size=32)
    mosaics = isp.bayer.half_size(np.stack([dataset[index][0] for index in metrics(config)["train_indices"]]))
    np.testing.assert_allclose(variables["processor.normalizer.mean"], mosaics.mean((0, 1, 2)), rtol=1e-4)
    assert (variables["processor.network.bn1.mean"] != 0).all()
    assert (variables["normalizer.mean"] != 0).all()
    for group in ("stages", "gradients"):
        for name in ("0_demosaic", "1_rgb"):
            tensor = np.load(config.run_dir / f"fold_0/results/epoch_0000/{group}/{name}.npy")
            assert tensor.shape == (5, 16, 16, 3)
            assert np.abs(tensor).max() > 0
    events = EventAccumulator(str(config.run_dir / "fold_0"))
    events.Reload()
    assert events.Scalars("processor_gradient_norm/network")[0].value > 0

    frozen = dataclasses.replace(
        config, run_name="frozen_neural", processor_uri=str(config.run_dir), freeze_processor=True
    )
    train.run(frozen)
    for name, value in model(frozen).items():
        if name.startswith("processor."):
            np.testing.assert_array_equal(value, variables[name], err_msg=name)


@pytest.mark.parametrize("mode", ["none", "neural_network"])
def test_published_mosaics_are_normalised_as_published(base, mode):
    synthetic = datasets.load("Synthetic", data_dir=base.data_dir, synthetic_images=40, synthetic_size=32)
    config = dataclasses.replace(base, processing_mode=mode)
    dataset = dataclasses.replace(synthetic, name="Microscopy")
    mean, std = train.fixed_statistics(config, dataset, np.arange(8), batch_size=8)
    np.testing.assert_allclose([mean, std], [[0.5663, 0.1401, 0.0731], [0.097, 0.0423, 0.008]], rtol=1e-6)


def test_processed_images_are_trained_on_as_they_are(base, monkeypatch):
    synthetic = datasets.load("Synthetic", data_dir=base.data_dir, synthetic_images=40, synthetic_size=32)
    render = isp.static(synthetic.camera)

    def read(index):
        raw, target = synthetic.read(index)
        return np.asarray(render(raw)), target

    processed = dataclasses.replace(synthetic, name="MicroscopyRGB", camera=None, read=read)
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: processed)
    with pytest.raises(InputError, match=r"holds images that are processed already: it needs --processing_mode=none"):
        train.run(dataclasses.replace(base, run_name="refused"))
    config = dataclasses.replace(
        base, run_name="images", processing_mode="none", epochs=1, save_locally=True,
        track_processing=True, track_save_tensors=True,
    )  # fmt: skip
    train.run(config)
    images = np.stack([processed[index][0] for index in range(40)])
    np.testing.assert_array_equal(np.load(config.run_dir / "fold_0/results/epoch_0000/stages/0_rgb.npy"), images[:5])
    mean = images[metrics(config)["train_indices"]].mean((0, 1, 2))
    np.testing.assert_allclose(model(config)["normalizer.mean"], mean, rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "algorithms", "side"),
    [("none", {}, 16), ("static", {"sp_debayer": "malvar2004", "sp_denoising": "median_denoising"}, 32)],
)
def test_fixed_processing_is_normalised_by_the_training_set_and_not_trained(base, mode, algorithms, side):
    config = dataclasses.replace(base, run_name=mode, processing_mode=mode, **algorithms, epochs=1, save_locally=True)
    train.run(config)
    dataset = datasets.load("Synthetic", data_dir=config.data_dir, synthetic_images=40, synthetic_size=32)
    processor = processing(mode, config.static_algorithms)(dataset.camera)
    images = processor(np.stack([dataset[index][0] for index in metrics(config)["train_indices"]]))
    assert images.shape == (32, side, side, 3)
    for name, value in processor.parameters().items():
        np.testing.assert_array_equal(model(config)[f"processor.{name}"], value)
    np.testing.assert_allclose(model(config)["normalizer.mean"], images.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(model(config)["normalizer.std"], jnp.sqrt(images.var((0, 1, 2)) + 1e-5), rtol=1e-3)


def test_the_stages_of_a_static_pipeline_are_recorded_the_mosaic_too(base):
    tracked = {"track_processing": True, "track_processing_gradients": True, "track_save_tensors": True}
    config = dataclasses.replace(base, run_name="tracked static", processing_mode="static", epochs=1, **tracked)
    train.run(config)
    results = config.run_dir / "fold_0" / "results" / "epoch_0000"
    for kind in ("stages", "gradients"):
        assert np.load(results / kind / "0_black_level.npy").shape == (5, 32, 32)
        assert np.load(results / kind / "7_gamma_correct.npy").shape == (5, 32, 32, 3)
        with Image.open(results / kind / "0_black_level.png") as picture:
            assert picture.size == (5 * 32, 32)


def test_static_pipelines_of_the_published_data_sets_are_normalised_as_published(base):
    synthetic = datasets.load("Synthetic", data_dir=base.data_dir, synthetic_images=40, synthetic_size=32)
    config = dataclasses.replace(base, processing_mode="static")
    dataset = dataclasses.replace(synthetic, name="Microscopy")
    mean, std = train.fixed_statistics(config, dataset, np.arange(8), batch_size=8)
    np.testing.assert_allclose([mean, std], [[0.91, 0.84, 0.94], [0.08, 0.12, 0.05]])


def test_without_log_model_nothing_is_kept_to_go_on_from(base):
    config = dataclasses.replace(base, run_name="unlogged", epochs=1, log_model=False, test_run=True)
    train.run(config)
    assert not (config.run_dir / "fold_0" / "checkpoints").exists()
    assert len(metrics(config)["train_indices"]) == 8
    with pytest.raises(InputError, match=r"--processor_uri=.*unlogged holds no checkpoint"):
        train.run(dataclasses.replace(base, run_name="refused", processor_uri=str(config.run_dir)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smp_encoder": "resnet18"}, "--smp_encoder is for segmentation; --dataset=Synthetic is classified"),
        (
            {"dataset": "SyntheticSegmentation", "classifier_network": "ResNet34"},
            "--classifier_network is for classification; --dataset=SyntheticSegmentation is segmented",
        ),
        (
            {"dataset": "SyntheticSegmentation", "processing_mode": "none"},
            r"height and width must be multiples of 64 for a U-Net\+\+ after --processing_mode=none, got 32x32",
        ),
        ({"classifier_uri": "nowhere"}, "--classifier_uri=nowhere is no run's folder with a fold_0: not found"),
        ({"classifier_uri": "{data_dir}"}, "is no run's folder with a fold_0: it has no fold_.* folder"),
        (
            {"classifier_uri": "{finished}", "classifier_network": "ResNet34"},
            "does not fit this run: its head has bn1.bias",
        ),
        ({"state_dict_uri": "{finished}", "n_splits": 3}, "is no run's folder with a fold_2: it has fold_0, fold_1"),
        ({"train_size": 0.99}, "the data set cannot be split with --train_size=0.99"),
    ],
)
def test_refuses(base, finished, change, message):
    places = {"data_dir": base.data_dir, "finished": finished[0].run_dir}
    change = {name: v.format(**places) if isinstance(v, str) else v for name, v in change.items()}
    with pytest.raises(InputError, match=message):
        train.run(dataclasses.replace(base, run_name="refused", **change))


def test_a_size_that_the_network_cannot_halve_is_refused(base):
    synthetic = datasets.load("Synthetic", data_dir=base.data_dir, synthetic_images=40, synthetic_size=32)
    dataset = dataclasses.replace(synthetic, read=lambda index: (np.zeros((40, 32), np.float32), np.int32(0)))
    config = dataclasses.replace(base, run_name="refused", processing_mode="neural_network")
    with pytest.raises(InputError, match=r"multiples of 16 for --processing_mode=neural_network, got 40x32"):
        folds.check(config, dataset, [])


@pytest.fixture(scope="module")
def segmented(base):
    """A finished run of segmentation."""
    config = dataclasses.replace(
        base,
        run_name="segmented",
        dataset="SyntheticSegmentation",
        augmentation="weak",
        epochs=8,
        lr=1e-2,
        track_predictions=True,
        track_n_images=3,
    )
    return config, train.run(config)


def test_segmentation_is_trained_by_its_overlap(segmented):
    config, summary = segmented
    content = metrics(config)
    assert list(summary) == ["val_iou", "val_loss", "train_iou", "train_loss"]
    assert content["classes"] == ["white cell"]
    assert set(content["val_f1"]) == {"background", "white cell"}
    (_, false_positive), (false_negative, positive) = content["val_confusion_matrix"]
    assert content["val_iou"] == pytest.approx(positive / (positive + false_positive + false_negative), rel=1e-6)
    assert np.sum(content["val_confusion_matrix"]) == pytest.approx(8, rel=1e-6)
    assert content["best_val_iou"] == max(row["val_iou"] for row in content["history"])
    # A cell covers a fifth of its scene: that is the overlap of calling everything cell.
    assert content["best_val_iou"] > 0.5


def test_masks_are_shown_below_pictures_and_above_predictions(segmented):
    config, _ = segmented
    picture = np.asarray(Image.open(config.run_dir / "fold_0/results/epoch_0007/predictions.png"))
    assert picture.shape == (3 * 32, 3 * 32, 3)
    dataset = datasets.load("SyntheticSegmentation", data_dir=config.data_dir, synthetic_images=40, synthetic_size=32)
    shown = picture[32:64, :, 0].reshape(32, 3, 32).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, [255 * dataset[index][1] for index in range(3)])


def test_a_second_batch_does_not_compile_again(base):
    dataset = datasets.load("Synthetic", data_dir=base.data_dir, synthetic_images=40, synthetic_size=32)
    compiled = steps.make_steps(base, dataset)
    batches = loader.train_batches(dataset, np.arange(32), 8, seed=0)
    key = jax.random.key(0)
    state = compiled.init(key)
    for _ in range(3):
        state, _ = compiled.train(state, steps.to_devices(next(batches), steps.shardings().split), key)
    assert compiled.train._cache_size() == 1
    assert int(state.step) == 3
