"""A trained model as a fold, as an adapted model, and as a file."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from safetensors import safe_open

import r2l_jax
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import adapt
from r2l_jax.training import model_io, train
from r2l_jax.training.run import Run, load
from r2l_jax.training.steps import GradientDescent


@pytest.fixture(scope="module")
def file(one_epoch):
    return one_epoch.run_dir / "fold_0" / "model.safetensors"


@pytest.fixture
def fold(one_epoch):
    (fold,) = load(one_epoch.run_dir)
    return fold


@pytest.fixture
def raws(fold):
    return fold.dataset.samples(fold.split.train[:16])[0] / 2


@pytest.fixture
def changed(file, tmp_path):
    """A function that writes the file with another description, metadata or arrays; None leaves an entry out."""
    with safe_open(file, "np") as opened:
        original = opened.metadata()

    def write(about=(), metadata=(), arrays=()):
        content = {**json.loads(original["about"]), **dict(about)}
        entries = {**original, "about": json.dumps(content), **dict(metadata)}
        tensors = {**safetensors.numpy.load_file(file), **dict(arrays)}
        safetensors.numpy.save_file(
            {name: value for name, value in tensors.items() if value is not None},
            tmp_path / "changed.safetensors",
            {name: value for name, value in entries.items() if value is not None},
        )
        return tmp_path / "changed.safetensors"

    return write


@pytest.mark.shows("train --save_locally", "r2l_jax.load(path)")
def test_the_file_alone_is_the_model_of_the_run(file, one_epoch, tmp_path, monkeypatch):
    shutil.copy(file, tmp_path / "any_name.st")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", None)
    alone, run = r2l_jax.load("any_name.st"), r2l_jax.load(one_epoch.run_dir)
    raws = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(alone.predict(raws), run.predict(raws))
    assert (alone.identity, alone.about) == (run.identity, run.about)
    assert alone.folds[0].training == run.folds[0].training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"format": None}}, "the metadata of a model file must be 'r2l_jax 2', got None"),
        ({"metadata": {"about": "[" * 10**5}}, "truncated, corrupt or not a valid SAFETENSORS"),
        ({"about": {"flags": {"pipeline": "x.py:make", "processing_mode": None}}}, "damaged: it does not record the"),
        ({"about": {"checkpoint": "last"}}, "holds only the last checkpoint, got checkpoint=best"),
        ({"about": {"camera": None}}, "is damaged: a camera is not valid: `processing_mode=param.*` needs one"),
        ({"arrays": {"head.fc.bias": None}}, r"head.fc.bias expects \(5,\), got no array"),
        ({"arrays": {"head.fc.bias": np.zeros(5)}}, "the array head.fc.bias must be float32, got float64"),
        ({"arrays": {"head.fc.bias.more": np.zeros(5, np.float32)}}, "truncated, corrupt or not a valid SAFETENSORS"),
        ({"arrays": {"head.fc.bias": np.ones(5, np.float32)}}, "its arrays do not match their hash"),
    ],
)
def test_a_file_of_others_is_refused_in_one_line(changed, changes, message):
    with pytest.raises(InputError, match=message) as error:
        r2l_jax.load(changed(**changes))
    assert "\n" not in str(error.value)
    assert "changed.safetensors" in str(error.value)


def test_an_adapted_model_is_a_run_and_a_file(fold, raws, tmp_path):
    model = adapt(fold.model, raws, fold.task, fold.about.score).model
    fold.adapted(model, {"drift": "half the light"}).write_fold(tmp_path / "dark/fold_0")
    expected = np.asarray(fold.task.probabilities(model(jnp.asarray(raws)), raws.shape[1]))
    run, alone = (load(tmp_path / f"dark/{name}") for name in ("", "fold_0/model.safetensors"))
    for loaded in (run, alone):
        # Logits are sums of hundreds of terms: in another order, they round by 20 * 2**-24 of sizes of 10 or so.
        np.testing.assert_allclose(loaded.predict(raws), expected, atol=1e-5)
        assert loaded.about.adapted == {"drift": "half the light", "from": fold.identity}
        assert loaded.identity == run.identity != fold.identity
        (opened,) = loaded
        np.testing.assert_array_equal(opened.split.train, fold.split.train)
        assert opened.training != fold.training
    # It says which state it holds.
    with pytest.raises(InputError, match="has no last checkpoint"):
        r2l_jax.load(tmp_path / "dark", checkpoint="last")


class Ascent(GradientDescent):
    """Trains uphill, so that an early epoch is the best."""

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self._optimizer = optax.adam(-settings.optimizer.rate.peak)


@pytest.fixture(scope="module")
def augmented(base):
    """A run whose best epoch is not its last, and which other cameras took as well."""
    config = replace(base, run_name="augmented", camera_augmentation=("light",), lr=1e-2, save_locally=True)
    train.run(config, Ascent)
    return config.run_dir


@pytest.mark.shows("r2l_jax.load(checkpoint)")
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_a_model_of_camera_augmentation_stores_statistics_of_clean_images(augmented, checkpoint):
    (fold,) = run = load(augmented, checkpoint=checkpoint)
    images = run.render(fold.dataset.samples(fold.split.train)[0]).astype(np.float64)
    assert len(images) == 32
    mean, var = fold.clean["normalizer"]
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, images.var((0, 1, 2)), rtol=1e-4)
    assert fold.about.best_epoch == 0 < fold.about.history[-1]["epoch"]


def test_it_is_adapted_from_them_without_its_data(augmented, tmp_path, monkeypatch):
    (fold,) = run = load(augmented)
    raws = fold.dataset.samples(fold.split.train[:16])[0] / 2
    wanted = adapt(fold.model, raws, fold.task, 0.0, clean=fold.clean).model(jnp.asarray(raws))
    others = adapt(fold.model, raws, fold.task, 0.0).model(jnp.asarray(raws))
    assert np.abs(wanted - others).max() > 0.01
    run.write(tmp_path / "kept")
    monkeypatch.setattr(datasets, "load", None)
    monkeypatch.setattr(model_io, "_datasets", {})
    for path in (augmented, augmented / "fold_0/model.safetensors", tmp_path / "kept"):
        adapted = load(path).adapted(raws, force=True)
        np.testing.assert_allclose(adapted.model(jnp.asarray(raws)), wanted, atol=1e-5)
    # The next adaptation starts from this one.
    adapted.write(tmp_path / "adapted")
    (found,) = load(tmp_path / "adapted")
    np.testing.assert_array_equal(found.clean["normalizer"][0], found.model.normalizer.mean[...])


def test_statistics_of_clean_images_that_were_not_stored_are_missed(augmented, tmp_path):
    shutil.copytree(augmented, tmp_path / "run")
    for file in (tmp_path / "run/fold_0").glob("*.safetensors"):
        file.unlink()
    run, raws = load(tmp_path / "run"), np.random.default_rng(0).random((16, 32, 32), np.float32)
    with pytest.raises(InputError, match=r"statistics of clean images, which need a training by this version$"):
        run.adapted(raws, force=True)
    few = [dataclasses.replace(fold, split=fold.split._replace(train=fold.split.train[:7])) for fold in run]
    assert few[0].observed() == {}
    with pytest.raises(InputError, match=r"statistics of clean images, which need at least 8 training samples, got 7$"):
        Run(few).adapted(raws, force=True)


def test_a_fold_keeps_its_number_in_a_file(one_epoch, tmp_path):
    shutil.copytree(one_epoch.run_dir / "fold_0", tmp_path / "run/fold_3")
    (fold,) = load(tmp_path / "run/fold_3")
    fold.write(tmp_path / "third.safetensors")
    (read,) = load(tmp_path / "third.safetensors")
    assert (fold.about.fold, read.about.fold) == (3, 3)


def test_a_run_is_adapted_in_python_and_kept_as_a_run(fold, raws, tmp_path):
    run = Run([fold])
    with pytest.raises(InputError, match="cannot be adapted: at least 8 images are needed to adapt, got 4"):
        run.adapted(raws[:4])
    with pytest.raises(InputError, match=r"raw images \(N, H, W\) to adapt to, got shape \(32, 32\)"):
        run.adapted(raws[0])
    found = run.adapted(raws, force=True)
    assert (
        repr(found)
        == f"{run}; adapted: {len(raws)} images with a weight of {100 * found.folds[0].adaptation.share:.0f}%"
    )
    (after,) = found
    assert found.about.adapted == {"from": fold.identity, "run": str(fold.folder), "by": after.adaptation.description}
    for _ in range(2):
        found.write(tmp_path / "adapted")
    kept = r2l_jax.load(tmp_path / "adapted")
    np.testing.assert_allclose(kept.predict(raws), found.predict(raws), atol=1e-6)
    assert kept.about.adapted == found.about.adapted
    with pytest.raises(InputError, match=r"adapted contains a different run: choose another folder$"):
        run.adapted(raws / 2, force=True).write(tmp_path / "adapted")
    # What an earlier call was killed over is written again.
    (tmp_path / "adapted/fold_0/metrics.json").unlink()
    found.write(tmp_path / "adapted")
    assert r2l_jax.load(tmp_path / "adapted").identity == found.identity
