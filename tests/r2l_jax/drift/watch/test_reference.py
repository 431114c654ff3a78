import numpy as np
import pytest
import unequal_members

from r2l_jax.drift.watch import reference
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.run import load


@pytest.fixture(scope="module")
def run_dir(base):
    config = replace(base, run_name="reference", epochs=1)
    train.run(config)
    return config.run_dir


def test_a_reference_has_the_samples_that_no_member_was_trained_on(run_dir):
    # The middle member alone has not seen samples 36 to 39, and each of the others lacks some at the other end.
    measured = [np.arange(36), np.arange(3, 40), np.arange(2, 38)]
    group = unequal_members.of_run(run_dir, measured)
    found = reference.make(group)
    wanted, _ = group.dataset.samples(np.arange(3, 36))
    np.testing.assert_allclose(found.raws, wanted, atol=1 / 65535)
    # One model after the other, each by itself.
    each = np.stack(
        [
            load(run_dir).predict(found.raws),
            *(unequal_members.Run([fold]).predict(found.raws) for fold in group.folds[1:]),
        ]
    )
    np.testing.assert_allclose(found.seen.probabilities, each, atol=1e-5)
    np.testing.assert_allclose(found.seen.output[:, 2:], each.mean(0), atol=1e-5)
    assert np.ptp(each, axis=0).max() > 0.05
    with pytest.raises(InputError, match="takes 32 samples that no model of the run was trained on, and there are 31"):
        reference.make(unequal_members.of_run(run_dir, [*measured[:2], np.arange(2, 34)]))
