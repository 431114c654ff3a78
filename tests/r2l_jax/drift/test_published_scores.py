import numpy as np
import pytest

from r2l_jax.drift.published_scores import published
from r2l_jax.names import CORRUPTIONS_OF_THE_STUDY, PUBLISHED_PIPELINES

STUDY = published()


def test_the_study_has_our_names_in_our_order():
    assert tuple(STUDY.pipelines) == PUBLISHED_PIPELINES
    assert len(set(PUBLISHED_PIPELINES)) == 12
    assert PUBLISHED_PIPELINES[0] == "bilinear.sharpening_filter.median_denoising"
    assert PUBLISHED_PIPELINES[-1] == "menon2007.unsharp_masking.gaussian_denoising"
    assert tuple(STUDY.corruptions) == CORRUPTIONS_OF_THE_STUDY
    assert (STUDY.severity, STUDY.folds) == (3, 5)
    assert STUDY.source.startswith("Oala et al.")


@pytest.mark.parametrize("tables", [STUDY.microscopy, STUDY.drone_segmentation], ids=["microscopy", "drone"])
def test_tables_have_a_row_for_each_pipeline(tables):
    assert np.shape(tables.processing_drift) == (12, 12)
    assert np.shape(tables.corruption) == (12, 11)
    # The identity is the run's own images, read off another figure to two digits.
    own = np.diag(tables.processing_drift)
    np.testing.assert_allclose(np.array(tables.corruption)[:, 0], own, atol=0.0101)


def test_corruptions_cost_more_than_other_pipelines():
    def drops(scores, own):
        return (np.diag(own)[:, None] - np.array(scores)).mean()

    # The study says ten to four times as much.
    for tables, ratio in ((STUDY.microscopy, 10.3), (STUDY.drone_segmentation, 3.9)):
        own = np.array(tables.processing_drift)
        processing = drops(own, own) * 12 / 11  # without the diagonal, which has no drop
        assert drops(np.array(tables.corruption)[:, 1:], own) / processing == pytest.approx(ratio, abs=0.1)
