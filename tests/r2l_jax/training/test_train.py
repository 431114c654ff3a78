import contextlib
import io
import itertools
import json
import re
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image
from small_runs import events, history, metrics, model, stop_at

import isp
import r2l_jax
from r2l_jax.cli import progress
from r2l_jax.cli.flags import flat, replace
from r2l_jax.cli.stop import Interrupted
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.locks import writing_to
from r2l_jax.training import steps, tracking, train
from r2l_jax.training.plan import Plan
from r2l_jax.training.record import Record, training_id

STAGES = ("demosaic", "color_correct", "sharpening", "gaussian", "clipped", "gamma_correct")


@pytest.fixture(scope="module")
def trained(base):
    track = ("processing", "gradients", "predictions", "arrays", "every_epoch")
    config = replace(base, run_name="finished", n_splits=2, track=track, track_n_images=3, save_locally=True)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        summary = train.run(config)
    return config, summary, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(trained):
    """A finished run of two folds that recorded everything, and its summary."""
    return trained[:2]


def test_a_run_ends_with_its_classes_and_the_next_commands(trained):
    config, _, out, err = trained
    assert "\r" not in err  # It is no terminal, which would show a bar.
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"] * 2
    assert all(line.endswith("*") for line in lines[::2])
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1].isupper()}
    folds = [metrics(config, fold) for fold in range(2)]
    for number, name in enumerate(folds[0]["classes"]):
        samples, _, _, f1 = table[name]
        counts = [sum(fold["val_confusion_matrix"][number]) for fold in folds]
        assert [fold["val_samples"][name] for fold in folds] == counts
        assert int(samples) == sum(counts)
        np.testing.assert_allclose(float(f1), np.mean([fold["val_f1"][name] for fold in folds]), atol=6e-5)
    assert f"python scripts/evaluate.py --run={config.run_dir}" in out


def test_metrics_say_what_came_out_and_how_to_do_it_again(finished):
    config, summary = finished
    for fold in range(2):
        content = metrics(config, fold)
        assert content["complete"]
        assert content["flags"] == json.loads(json.dumps(flat(replace(config, camera_augmentation=()))))
        assert sorted(content["train_indices"] + content["valid_indices"]) == list(range(40))
        assert len(content["history"]) == 2
        assert all(row["seconds"] > 0 for row in content["history"])
        assert content["val_accuracy"] == np.trace(content["val_confusion_matrix"]) / len(content["valid_indices"])
        assert content["val_loss"] == content["history"][-1]["val_loss"]
        assert summary["val_accuracy"]["folds"][fold] == content["val_accuracy"]
    assert json.loads((config.run_dir / "summary.json").read_text()) == summary
    assert summary["val_loss"]["std"] == np.std(summary["val_loss"]["folds"])
    assert metrics(config, 0)["train_indices"] != metrics(config, 1)["train_indices"]


def test_a_run_in_training_is_not_trained_twice(base):
    config = replace(base, run_name="twice")
    with writing_to(config.run_dir), pytest.raises(InputError, match="another program is writing"):
        train.run(config)


@pytest.mark.shows("train --track")
def test_tensorboard_has_scalars_parameters_and_pictures(finished):
    config, _ = finished
    recorded = events(config.run_dir / "fold_0")
    tags = recorded.Tags()
    for tag in ("loss/train", "loss/val", "accuracy/train", "accuracy/val", "learning_rate", "images_per_second"):
        assert [event.step for event in recorded.Scalars(tag)] == [0, 1], tag
    speeds = np.array([event.value for event in recorded.Scalars("images_per_second")])
    np.testing.assert_allclose([row["seconds"] for row in metrics(config)["history"]], 32 / speeds, rtol=1e-5)
    assert recorded.Scalars("loss/val")[1].value == pytest.approx(metrics(config)["val_loss"])
    for name in ("black_level", "debayer", "gaussian_blur"):
        assert all(event.value > 0 for event in recorded.Scalars(f"processor_gradient_norm/{name}"))
    pictures = [f"{group}/{i}_{name}" for group in ("stages", "gradients") for i, name in enumerate(STAGES)]
    assert {*pictures, "predictions"} <= set(tags["images"])


@pytest.mark.shows("training.tracking keys: training", "training.tracking figures: epoch_{}")
def test_the_result_of_a_training_has_curves_from_its_start(finished):
    config, _ = finished
    fold = config.run_dir / "fold_0"
    found = result.read(fold / "training")
    assert found.metadata["training"] == {"fold_0": training_id(Record.of(metrics(config), "a run"))}
    assert {"loss", "accuracy", "parameter_white_balance", "gradient_norms", "confusion"} <= found.figures.keys()
    assert found.captions["parameter_white_balance"] == "white balance: change since the start"
    assert found.captions["epoch_0001_0_demosaic"] == "demosaic, and the magnitude of the loss gradient, epoch 2"
    # The samples are side by side, above their gradients. The brightest hundredth of each gradient has full brightness.
    arrays = fold / "results/epoch_0001"
    stages, gradients = (np.load(arrays / group / "3_gaussian.npy") for group in ("stages", "gradients"))
    most = np.quantile(abs(gradients), 0.99, (1, 2, 3), keepdims=True)
    parts = [np.concatenate(np.clip(each, 0, 1), 1) for each in (stages, abs(gradients) / most)]
    with Image.open(fold / "training/epoch_0001_3_gaussian.png") as picture:
        np.testing.assert_allclose(np.asarray(picture), 255 * np.concatenate(parts), atol=0.51)
    assert [row[0] for row in found.tables["classes"].rows] == metrics(config)["classes"]
    assert result.read(config.run_dir / "fold_1" / "training").metadata["training"].keys() == {"fold_1"}


@pytest.mark.shows(
    "training.tracking classes.csv: *, class, samples",
    "training.tracking epochs.csv: *, epoch, seconds",
    "training.tracking figures: *, confusion, gradient_norms, loss, parameter_{}",
    "training.tracking keys: title",
)
def test_tables_and_figures_of_a_training_have_its_numbers(finished, monkeypatch):
    config, _ = finished
    fold, content, made = Plan(config).folds[1], metrics(config, 1), []
    run = r2l_jax.load(config.run_dir, fold=1)
    monkeypatch.setattr(tracking.result, "write", lambda folder, result: made.append(result))
    tracking.write_result(fold, content, run.task, run.model.processor)
    (found,) = made
    assert found.metadata["title"] == "Training curves"
    for number, row in enumerate(found.tables["epochs"].records()):
        known = {name.replace("_", " "): value for name, value in content["history"][number].items()}
        assert row == known | {"epoch": number + 1}
    for row in found.tables["classes"].records():
        name = row.pop("class")
        assert row == {"samples": content["val_samples"][name]} | {
            each: content[f"val_{each}"][name] for each in ("precision", "recall", "f1")
        }

    def lines(name):
        axes = Figure(layout="constrained").subplots()
        found.figures[name].draw(axes)
        return {line.get_label(): (list(line.get_xdata()), line.get_ydata()) for line in axes.lines}

    for name, factor in (("accuracy", 100), ("loss", 1)):
        for split, words in (("val", "validation"), ("train", "training")):
            epochs, values = lines(name)[words]
            assert epochs == [1, 2]
            np.testing.assert_allclose(values, [factor * row[f"{split}_{name}"] for row in content["history"]])
    recorded = events(config.run_dir / "fold_1")
    for name, (epochs, values) in lines("gradient_norms").items():
        norms = recorded.Scalars(f"processor_gradient_norm/{name}")
        assert (epochs, list(values)) == ([1, 2], [each.value for each in norms])
    gains = np.array(run.dataset.camera.white_balance)
    for place, (epochs, values) in enumerate(lines("parameter_white_balance").values()):
        after = [each.value for each in recorded.Scalars(f"processor/white_balance/{place}")]
        assert epochs == [0, 1, 2]
        np.testing.assert_allclose(values, [0, *(after - gains[place])], atol=1e-6)
    axes, matrix = Figure().subplots(), np.array(content["val_confusion_matrix"])
    found.figures["confusion"].draw(axes)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(axes.images[0].get_array(), shares)


@pytest.mark.shows("train --track_n_images")
def test_the_last_stage_of_the_trace_is_what_the_saved_parameters_render(finished):
    """Both are those of the best epoch."""
    config, _ = finished
    dataset = datasets.load("Synthetic", **config.data.source)
    pipeline = isp.parametrized(dataset.camera)
    for name, value in model(config).items():
        if name.startswith("processor."):
            setattr(pipeline, name.removeprefix("processor."), nnx.Param(jnp.array(value)))
    rgb = pipeline(np.stack([dataset[index][0] for index in range(3)]))
    results = config.run_dir / "fold_0" / "results" / f"epoch_{metrics(config)['best_epoch']:04d}"
    traced = np.load(results / "stages" / "5_gamma_correct.npy")
    # In linear light, since the tone curve is steep near black.
    np.testing.assert_allclose(rgb**2.2, traced**2.2, atol=1e-5)


def test_training_learns_and_names_the_best_epoch(base, monkeypatch, capsys):
    config = replace(base, run_name="learns", epochs=8, lr=1e-2, augmentation="none", log_model=False)
    monkeypatch.setattr(progress, "_APART", 0.0)
    train.run(config)
    # Where the output is no terminal, lines say how far the training is within an epoch.
    steps = re.findall(r"^fold 1/1: step (\d+) of (\d+)$", capsys.readouterr().err, re.MULTILINE)
    assert [int(step) for step, _ in steps] == [*range(1, int(steps[0][1]) + 1)]
    rows = history(config)
    # Without any knowledge of the five classes, the loss is log(5), and the accuracy 0.2.
    assert np.mean([row["train_loss"] for row in rows[-3:]]) < 0.9 * np.log(5)
    assert np.mean([row["train_accuracy"] for row in rows[-3:]]) > 0.4
    best = max(range(8), key=lambda epoch: (rows[epoch]["val_accuracy"], -rows[epoch]["val_loss"]))
    assert metrics(config)["best_epoch"] == best


def test_a_finished_run_is_not_trained_again_but_adds_what_is_asked_for(base, one_epoch, monkeypatch, capsys):
    config = replace(one_epoch, logdir=base.tracking.logdir, track=("predictions",))
    shutil.copytree(one_epoch.run_dir, config.run_dir)
    before = metrics(config)
    monkeypatch.setattr(train.loader, "train_batches", lambda *arguments: iter(()))
    assert train.run(config)["val_loss"]["mean"] == before["val_loss"]
    assert (config.run_dir / "fold_0" / "results" / "epoch_0000" / "predictions.png").is_file()
    assert metrics(config)["history"] == before["history"]
    assert metrics(config)["complete"]
    said = f"{config.run_dir / 'fold_0'} is finished: nothing to train\n"
    assert said not in capsys.readouterr().err
    train.run(config)
    assert said in capsys.readouterr().err


@pytest.mark.shows("train --log_model")
def test_a_signal_in_the_last_step_does_not_undo_the_end_and_one_before_keeps_nothing(base, monkeypatch):
    config = replace(base, run_name="stopped_at_the_end", epochs=1, log_model=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted, match="stopped at step 2 of 4; no checkpoint was written"):
            train.run(config)
    stop_at(monkeypatch, 4)
    train.run(config)
    assert metrics(config)["complete"]
    assert not (config.run_dir / "fold_0" / "checkpoints").exists()
    with pytest.raises(InputError, match=r"`processor_uri=.*the_end` has no best checkpoint"):
        train.run(replace(base, run_name="refused", processor_uri=str(config.run_dir)))


@pytest.mark.shows("train --check_val_every_n_epoch --epochs")
def test_every_second_epoch_and_the_last_are_validated_and_without_checkpoints_the_last_state_is_kept(base):
    settings = {"check_val_every_n_epoch": 2, "log_model": False, "save_locally": True, "schedule": "cosine"}
    config = replace(base, run_name="without_checkpoints", epochs=3, **settings)
    train.run(config)
    about = r2l_jax.load(config.run_dir / "fold_0/model.safetensors", checkpoint="last").about
    assert (about.checkpoint, about.epoch) == ("last", 2)
    recorded = events(config.run_dir / "fold_0")
    # The rate of the epoch's last update.
    expected = [config.optimization.lr * (1 + np.cos(np.pi * update / 12)) / 2 for update in (3, 7, 11)]
    np.testing.assert_allclose([event.value for event in recorded.Scalars("learning_rate")], expected, rtol=1e-5)
    assert ["val_loss" in row for row in history(config)] == [False, True, True]
    assert all("train_loss" in row for row in history(config))


def test_each_fold_starts_from_its_fold_of_an_earlier_run(base, finished):
    earlier, _ = finished
    plan = Plan(replace(base, run_name="started", n_splits=2, classifier_uri=str(earlier.run_dir)))
    for fold in plan.folds:
        made, key = steps.make_steps(plan.steps), jax.random.key(0)
        state = train.initial_state(plan, made, fold, key)
        kernel = nnx.to_pure_dict(state.model)["head"]["conv1"]["kernel"]
        np.testing.assert_array_equal(kernel, model(earlier, fold.number)["head.conv1.kernel"])


@pytest.mark.parametrize("stops", [(4,), (2, 6)], ids=str)
def test_an_interrupted_run_goes_on_to_the_same_end(base, finished, monkeypatch, stops):
    """Asked to stop at the end of an epoch, or within both; then continued by the same call."""
    config = replace(base, run_name=f"stopped_{stops[0]}", save_locally=True)
    for before, step in itertools.pairwise((0, *stops)):
        message = "after epoch 1 of 2" if step == 4 else f"at step {step} of 8"
        with monkeypatch.context() as patch:
            stop_at(patch, step - before)
            with pytest.raises(Interrupted, match=f"stopped {message}; the same call resumes"):
                train.run(config)
        assert not metrics(config)["complete"]
    train.run(config)
    assert history(config) == history(finished[0])
    uninterrupted = model(finished[0])
    for name, value in model(config).items():
        np.testing.assert_array_equal(value, uninterrupted[name], err_msg=name)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_was_killed_after_a_checkpoint_has_every_event_once(base, monkeypatch, epoch):
    config = replace(base, run_name=f"killed_{epoch}", track=("processing", "gradients"))
    said = []

    def killed(*arguments):
        said.append(arguments)
        if len(said) == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.FoldTraining, "_say", killed)
        with pytest.raises(KeyboardInterrupt):
            train.run(config)
    time.sleep(1.1)  # Event files are named by the second.
    train.run(config)
    fold = config.run_dir / "fold_0"
    recorded = events(fold)
    for tag in recorded.Tags()["scalars"]:
        assert [event.step for event in recorded.Scalars(tag)] == [0, 1], tag
    assert all([event.step for event in recorded.Images(tag)] == [1] for tag in recorded.Tags()["images"])
    captions = result.read(fold / "training").captions
    assert captions["parameter_white_balance"] == "white balance: change since the start"


def test_a_run_that_diverges_says_so(base):
    config = replace(base, run_name="diverged", lr=1e30, processing_mode="static")
    with pytest.raises(InputError, match="training diverged in epoch 1: loss or parameters are not finite; lower `lr`"):
        train.run(config)
