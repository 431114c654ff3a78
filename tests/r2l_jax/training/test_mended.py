import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

import r2l_jax
from r2l_jax.model.mending import MOST, known_of, mend
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import mended
from r2l_jax.training.run import Run, open_runs


@pytest.fixture
def fold(one_epoch):
    (run,) = open_runs([str(one_epoch.run_dir)])
    return run.folds[0]


@pytest.fixture
def raws(fold):
    return fold.dataset.samples(fold.train_indices[:16])[0] / 2


def test_a_mended_model_is_a_run_and_a_file(fold, raws, tmp_path):
    model = mend(fold.model, raws, fold.task, fold.about.score).model
    mended.write(tmp_path / "dark/fold_0", fold, model, None, {"drift": "half the light"})
    (run,) = open_runs([str(tmp_path / "dark")])
    file = r2l_jax.load(tmp_path / "dark/fold_0/model.safetensors")
    expected = np.asarray(fold.task.probabilities(model(jnp.asarray(raws)), raws.shape[1]))
    for loaded in (run, file, r2l_jax.load(tmp_path / "dark")):
        np.testing.assert_allclose(loaded.predict(raws), expected, rtol=1e-5, atol=1e-6)
        assert loaded.about.mended == {"drift": "half the light", "from": fold.identity}
        assert loaded.identity == run.identity != fold.identity
    opened = run.folds[0]
    np.testing.assert_array_equal(opened.train_indices, fold.train_indices)
    assert opened.dataset.fingerprint == fold.dataset.fingerprint
    assert opened.training != fold.training
    # It says which state it holds.
    with pytest.raises(InputError, match="holds no last checkpoint"):
        r2l_jax.load(tmp_path / "dark", checkpoint="last")


def test_a_mended_model_may_have_another_pipeline(fold, raws, tmp_path):
    named = find_pipeline("bilinear.none.none")
    pipeline = named(fold.dataset.camera)
    model = type(fold.model)(pipeline, fold.model.normalizer, fold.model.head)
    mended.write(tmp_path / "run/fold_0", fold, model, named, {})
    run = r2l_jax.load(tmp_path / "run")
    assert run.config.processing.pipeline == "bilinear.none.none"
    np.testing.assert_allclose(run.render(raws), pipeline(jnp.asarray(raws)), atol=1e-6)


def test_a_model_that_was_trained_with_other_cameras_is_adapted_by_the_statistics_of_clean_images(fold, raws):
    fold = dataclasses.replace(fold, train_indices=np.resize(fold.train_indices, MOST))
    assert fold.clean is None
    of_many = dataclasses.replace(fold, config=replace(fold.config, camera_augmentation=("light",)))
    clean = known_of(fold.model, fold.dataset.samples(fold.train_indices)[0], fold.task)
    found = mend(fold.model, raws, fold.task, 0.0, clean=clean).model.normalizer.mean[...]
    without = dataclasses.replace(of_many, load_data=functools.partial(_missing, "data"))
    assert without.clean is None
    adapted = Run([of_many]).mended(raws, force=True).folds[0].model.normalizer.mean[...]
    np.testing.assert_allclose(adapted, found, rtol=1e-4)
    assert np.abs(Run([fold]).mended(raws, force=True).folds[0].model.normalizer.mean[...] - found).max() > 1e-4


def _missing(folder):
    raise InputError(f"{folder} is missing")


def test_a_run_is_mended_in_python(fold, raws):
    run = Run([fold])
    with pytest.raises(InputError, match="stays as it is: 4 images are too few to mend by: it takes 8"):
        run.mended(raws[:4])
    with pytest.raises(InputError, match=r"mended by several mosaics \(N, H, W\), got an array of shape \(32, 32\)"):
        run.mended(raws[0])
    found = run.mended(raws, force=True)
    (before,), (after,) = run.folds, found.folds
    assert before.mending is None
    assert after.mending.images == 16
    assert after.about.score == before.about.score
    assert found.identity != run.identity
    assert np.abs(found.predict(raws) - run.predict(raws)).max() > 0
    assert found.about.mended == {"from": before.identity, "run": str(before.folder), "by": after.mending.description}


def test_a_run_that_was_mended_is_kept_as_a_run(fold, raws, tmp_path):
    found = Run([fold]).mended(raws, force=True)
    for _ in range(2):
        mended.write_run(tmp_path / "mended", found)
    kept = r2l_jax.load(tmp_path / "mended")
    np.testing.assert_allclose(kept.predict(raws), found.predict(raws), atol=1e-6)
    assert kept.about.mended == found.about.mended
    with pytest.raises(InputError, match=r"mended holds another run: choose another folder$"):
        mended.write_run(tmp_path / "mended", Run([fold]).mended(raws / 2, force=True))
    # What an earlier call was killed over is written again.
    (tmp_path / "mended/fold_0/metrics.json").unlink()
    mended.write_run(tmp_path / "mended", found)
    assert r2l_jax.load(tmp_path / "mended").identity == found.identity
    file = r2l_jax.load(fold.folder / "model.safetensors").mended(raws, force=True)
    with pytest.raises(InputError, match="is a model's file: only a run's folder can be mended and kept as a run"):
        mended.write_run(tmp_path / "file", file)
