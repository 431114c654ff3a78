import pytest

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.runtime.flags import build


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A study of two folds with few cases and searches."""
    return build(
        StudyConfig,
        output=str(tmp_path_factory.mktemp("here") / "study"),
        n_splits=2,
        epochs=3,
        corruptions=["contrast", "gaussian_noise"],
        sensor=["defocus", "bits"],
        severities=[3],
        adv_parameters=["all", "black_level"],
        adv_aux_weight=[1e-2, 1e-4],
    )
