import numpy as np
import pytest

from r2l_jax.apps.study.published import published
from r2l_jax.names import CORRUPTIONS_OF_THE_STUDY, PUBLISHED_PIPELINES


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_the_published_tables_have_our_names_in_our_order(task):
    theirs = published(task)
    assert tuple(theirs.pipelines) == PUBLISHED_PIPELINES
    assert tuple(theirs.corruptions) == CORRUPTIONS_OF_THE_STUDY
    assert theirs.processing.shape == (12, 12)
    # The identity is the run's clean images, read off another figure to two digits.
    np.testing.assert_allclose(theirs.corruption[:, 0], np.diag(theirs.processing), atol=0.0101)
