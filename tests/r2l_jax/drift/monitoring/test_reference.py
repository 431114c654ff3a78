import dataclasses

import numpy as np
import pytest

from r2l_jax.drift.monitoring import reference
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
