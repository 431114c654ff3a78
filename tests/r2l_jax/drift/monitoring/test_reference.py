import dataclasses

import numpy as np
import pytest

from r2l_jax.drift.monitoring import alarm, reference
from r2l_jax.drift.monitoring.statistics import Seen, see
from r2l_jax.errors import InputError
from r2l_jax.training.run import Run, load


def group(run, *measured):
    """A model, a weaker and an inverted one as a group, each with its own test samples."""
    folds = []
    for factor, indices in zip((1.0, 0.25, -0.5), measured, strict=True):
        (fold,) = load(run.run_dir).folds
        fold.model.head.fc.kernel[...] *= factor
        folds.append(dataclasses.replace(fold, split=fold.split._replace(test=indices)))
    return Run(folds)


def test_a_reference_of_groups_keeps_the_statistics_of_other_groups(one_epoch, tmp_path):
    """Four groups are measured, and the others are compared by their statistics alone."""
    (fold,) = load(one_epoch.run_dir).folds
    count = len(fold.dataset)
    assert count == 40
    dataset = dataclasses.replace(fold.dataset, groups=np.array([*range(4)] * 8 + [4] * 3 + [5] * 5))
    test, valid, train = np.arange(32), np.arange(32, 35), np.arange(35, 40)
    fold = dataclasses.replace(fold, split=fold.split._replace(train=train, valid=valid, test=test))
    fold.__dict__["dataset"] = dataset
    run = Run([fold])
    made = reference.make(run)
    np.testing.assert_array_equal(made.groups, [*range(4)] * 8)
    np.testing.assert_array_equal(made.others.groups, [4] * 3 + [5] * 5)
    rest = np.arange(32, 40)
    np.testing.assert_allclose(made.others.mosaic, see(run, dataset.samples(rest)[0]).mosaic, atol=1e-5)
    file = tmp_path / reference.FILE
    reference.write(made, run, file)
    found = reference.read(run, file)
    for name, values in made.others._asdict().items():
        np.testing.assert_array_equal(getattr(found.others, name), values)
    np.testing.assert_array_equal(found.seen.groups, made.groups)


def test_a_reference_has_the_samples_that_no_member_was_trained_on(one_epoch):
    # The middle member alone has not seen samples 36 to 39, and each of the others lacks some at the other end.
    measured = [np.arange(36), np.arange(3, 40), np.arange(2, 38)]
    members = group(one_epoch, *measured)
    found = reference.make(members)
    wanted, _ = members.dataset.samples(np.arange(3, 36))
    np.testing.assert_allclose(found.raws, wanted, atol=1 / 65535)
    # One model after the other, each by itself.
    each = np.stack([Run([fold]).predict(found.raws) for fold in members.folds])
    np.testing.assert_allclose(found.seen.probabilities, each, atol=1e-5)
    np.testing.assert_allclose(found.seen.output[:, 2:], each.mean(0), atol=1e-5)
    assert np.ptp(each, axis=0).max() > 0.05
    with pytest.raises(InputError, match="needs 32 samples that no model of the run was trained on, got 31"):
        reference.make(group(one_epoch, *measured[:2], np.arange(2, 34)))


def seen_of(rng, count, raw=0.0, features=0.0):
    """Statistics of images of one model, with the raw images' and the features' means moved."""
    parts = [rng.normal(move, 1, (count, 3)).astype(np.float32) for move in (raw, 0.0, 0.0, features)]
    return Seen(*parts, np.full((1, count, 2), 0.5, np.float32))


@pytest.mark.parametrize(("moved", "noticed"), [("raw", False), ("features", True)])
def test_a_model_is_adapted_if_its_features_have_drifted_not_the_raw_images_alone(
    one_epoch, monkeypatch, moved, noticed
):
    """Metering undoes a change of the light that raw images still show; adapting could then only cost accuracy."""
    rng = np.random.default_rng(0)
    known = reference.Reference(np.zeros((64, 2, 2), np.uint16), None, None, np.arange(64), "test", seen_of(rng, 64))
    new = seen_of(rng, 64, **{moved: 3.0})
    assert alarm.compare(known.seen, new, reference.LEVEL).p_value < 0.01
    monkeypatch.setattr(reference, "see", lambda *_: new)
    found = reference.unnoticed(load(one_epoch.run_dir), np.zeros((64, 2, 2), np.float32), lambda: known)
    assert (found is None) == noticed
    if not noticed:
        assert found.startswith("no drift is detected in the features of 64 images, compared with 64 clean ones (p = ")
