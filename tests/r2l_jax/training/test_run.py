import json
import shutil

import folds_by_hand
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx
from small_runs import metrics

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.training.run import Run, load
from r2l_jax.training.steps import StepSettings


@pytest.fixture(scope="module")
def loaded(one_epoch):
    return load(one_epoch.run_dir)


@pytest.fixture(scope="module")
def samples(loaded):
    (fold,) = loaded
    return fold.dataset.samples(fold.split.valid)


def test_it_predicts_as_the_run_was_validated(loaded, samples, one_epoch):
    raws, targets = samples
    probabilities = loaded.predict(raws)
    assert probabilities.shape == (len(raws), len(loaded.classes))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert (probabilities.argmax(-1) == targets).mean() == pytest.approx(metrics(one_epoch)["val_accuracy"])
    assert loaded.score == metrics(one_epoch)["best_val_accuracy"]
    assert (loaded.task.title, loaded.shape, loaded.multiple) == ("classification", (32, 32), 1)


def test_it_renders_and_traces_with_the_learned_processing(loaded, samples):
    raws, _ = samples
    expected, stages = loaded.model.processor.trace(raws)
    # In linear light, since the tone curve is steep near black.
    np.testing.assert_allclose(loaded.render(raws) ** 2.2, expected**2.2, atol=1e-5)
    traced = loaded.trace(raws[0])
    assert list(traced) == list(stages) == list(loaded.pipeline.stage_names)
    np.testing.assert_allclose(traced["demosaic"], stages["demosaic"][0], atol=1e-5)
    assert (loaded.camera, loaded.classes) == (loaded.dataset.camera, loaded.dataset.classes)


def test_results_depend_neither_on_batches_nor_on_leading_axes(loaded, samples):
    raws, _ = samples
    whole = loaded.predict(raws)
    # Logits are sums of hundreds of terms: in another order, they round by 20 * 2**-24 of sizes of 10 or so.
    np.testing.assert_allclose(loaded.predict(raws, batch_size=3), whole, atol=1e-5)
    np.testing.assert_allclose(loaded.predict(raws[:6].reshape(2, 3, 32, 32)), whole[:6].reshape(2, 3, -1), atol=1e-5)
    assert loaded.render(raws[0]).shape == (32, 32, 3)


@pytest.mark.parametrize("compute", ["predict", "render", "trace", "adapted"])
def test_raw_images_with_nan_are_refused_with_its_place(loaded, compute):
    raws = np.full((8, 32, 32), 0.5, np.float32)
    raws[2, 5, 31] = np.nan
    with pytest.raises(InputError, match=r"^raw images must contain only finite values, got nan at \(2, 5, 31\)$"):
        getattr(loaded, compute)(raws)


@pytest.mark.parametrize("method", ["predict", "render", "trace", "adapted"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raws: np.round(4095 * raws).astype(np.uint16), r"uint16 from \d+ to \d+: divide"),
        (lambda raws: np.round(4095 * raws), r"float32 from \d+ to [1-4]\d\d\d: divide .*white"),
        (lambda raws: raws - 0.5, r"float32 from -0.4\d+ to 0.\d+: divide"),
    ],
)
def test_raw_images_of_another_range_are_refused(loaded, samples, method, change, message):
    with pytest.raises(InputError, match=rf"expected images of floats in \[0, 1\], got {message}"):
        getattr(loaded, method)(change(samples[0]))


def test_integers_are_divided_by_the_white_level_of_the_training(one_epoch, samples, capsys):
    run = load(one_epoch.run_dir)
    run.about = msgspec.structs.replace(run.about, white_level=200.0)
    # From 0 to 255, of which those above 200 are saturated.
    numbers = np.linspace(0, 255, samples[0].size).reshape(samples[0].shape).astype(np.uint16)
    wanted = np.minimum(numbers / 200, 1).astype(np.float32)
    np.testing.assert_array_equal(run.predict(numbers), run.predict(wanted))
    np.testing.assert_array_equal(run.render(numbers[0, None, :4, :4]), run.render(wanted[0, None, :4, :4]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 21% of the numbers in `raws` exceed `white_level=200` and are clipped: is it ")
    with pytest.raises(InputError, match="`raws` must not be negative, got -1 at image 1, row 2, column 3"):
        run.predict(np.where(np.arange(3 * 32 * 32).reshape(3, 32, 32) == 32 * 32 + 2 * 32 + 3, -1, 7))


def test_another_size_than_in_training_is_warned_of_once(one_epoch, samples, capsys):
    run, raws = load(one_epoch.run_dir), samples[0]
    run.predict(raws)
    assert not capsys.readouterr().err
    for _ in range(2):
        run.predict(raws[:, :16])
    expected = "the model was trained on images of 32x32, so predictions at 16x32 may be wrong"
    assert capsys.readouterr().err == f"warning: {expected}\n"


def test_raw_images_may_exceed_their_range_by_rounding(loaded, samples):
    raws = samples[0]
    raws = 1.04 * (raws - raws.min()) / np.ptp(raws) - 0.02
    assert np.isfinite(loaded.predict(raws.astype(jnp.bfloat16))).all()


def test_several_folds_predict_their_mean(base, capsys):
    """Of masks, which have the size of the mosaics."""
    config = replace(base, dataset="SyntheticSegmentation")
    dataset = datasets.load(config.data.dataset, **config.data.source)
    architecture = StepSettings.of(config, dataset, 1).architecture
    networks = [architecture.model(nnx.Rngs(seed), None) for seed in range(3)]
    for network in networks:
        network.eval()
    run = Run([folds_by_hand.fold_of(dataset, config=config, model=network) for network in networks])
    raws, masks = dataset.samples(np.arange(3))
    logits = [np.asarray(network(jnp.asarray(raws))[..., 0]) for network in networks]
    expected = np.mean([1 / (1 + np.exp(-each)) for each in logits], axis=0)
    found = run.predict(raws)
    # Frames are of any size.
    assert run.predict(np.pad(raws, ((0, 0), (0, 0), (0, 32)))).shape == (3, 32, 64)
    assert not capsys.readouterr().err
    assert (run.task.title, found.shape, run.multiple) == ("segmentation", masks.shape, 32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="height and width must be multiples of 32 for this model, got 16x32"):
        run.predict(raws[:, :16])


@pytest.mark.shows("r2l_jax.load(data_dir)")
def test_runs_of_the_same_data_share_it_and_moved_data_is_found_by_its_new_place(one_epoch, tmp_path):
    shutil.copytree(one_epoch.data.data_dir, tmp_path / "data")
    here, again = map(load, (one_epoch.run_dir, one_epoch.run_dir / "fold_0"))
    there = load(one_epoch.run_dir, data_dir=str(tmp_path / "data"))
    assert here.dataset is again.dataset
    assert here.dataset is not there.dataset
    assert there.dataset.files[0][0].is_relative_to(tmp_path)


def test_the_camera_s_file_moves_with_the_data(one_epoch, tmp_path):
    shutil.copytree(one_epoch.run_dir, tmp_path / "run")
    (tmp_path / "camera.json").write_text(isp.CAMERAS["drone"].to_json())
    content = metrics(one_epoch)
    for name, moved in (("cells/camera.json", f"{tmp_path}/camera.json"), ("cells/other.json", "cells/other.json")):
        content["flags"]["camera"] = name
        (tmp_path / "run/fold_0/metrics.json").write_text(json.dumps(content))
        assert load(tmp_path / "run", data_dir=str(tmp_path)).config.data.camera == moved


def test_a_link_to_a_fold_stands_for_it_and_a_copy_of_a_fold_does_not(one_epoch, tmp_path):
    (tmp_path / "link").symlink_to(one_epoch.run_dir / "fold_0")
    assert load(str(tmp_path / "link")).folds[0].number == 0
    shutil.copytree(one_epoch.run_dir, tmp_path / "experiment/cells")
    copy = shutil.copytree(one_epoch.run_dir / "fold_0", tmp_path / "experiment/cells/fold_0 (copy)")
    with pytest.raises(InputError, match=r"fold_0 \(copy\) must be a run folder with a fold_0: found no fold_"):
        load(copy)
    assert len(load(tmp_path / "experiment/cells", fold=None).folds) == 1
    with pytest.raises(InputError, match=r"a fold_0: not found; did you mean .*/experiment/cells\?$"):
        load(str(tmp_path / "cells"))
