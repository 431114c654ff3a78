import pytest

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.cli.flags import build


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A study of two folds with few cases and searches."""
    return build(
        StudyConfig,
        output=str(tmp_path_factory.mktemp("here") / "study"),
        n_splits=2,
        epochs=3,
        lr=1e-3,
        batch_size=8,
        corruptions=["contrast", "gaussian_noise"],
        severities=[2, 3],
        adv_parameters=["all", "black_level"],
        adv_aux_weight=[1e-4, 1e-2],
    )
