import json

import numpy as np
import optimized
import pytest

from r2l_jax.config import TrainConfig
from r2l_jax.runtime import compiler
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory):
    """The validation accuracies of three folds, by the precision of the head."""
    folder = tmp_path_factory.mktemp("precision")
    options = compiler.options() | optimized.OPTIONS
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = {
            "data_dir": str(folder),
            "synthetic_images": 120,
            "synthetic_size": 32,
            "n_splits": 3,
            "epochs": 12,
            "batch_size": 8,
            "lr": 1e-3,
            "ema": 0.98,
            "schedule": "cosine",
            "precision": precision,
            "logdir": str(folder),
            "run_name": precision,
        }
        config = replace(TrainConfig(), **settings)
        with pytest.MonkeyPatch.context() as patch:
            # Compiled as in other tests, hundreds of steps would take a quarter of an hour.
            patch.setattr(compiler, "options", lambda: options)
            train.run(config)
        summary = json.loads((config.run_dir / "summary.json").read_text())
        found[precision] = np.array(summary["val_accuracy"]["folds"])
    return found


def test_bfloat16_trains_to_within_the_noise_of_float32(accuracies):
    full, half = accuracies["float32"], accuracies["bfloat16"]
    error = np.sqrt((full.var(ddof=1) + half.var(ddof=1)) / 3)
    assert full.mean() > 0.5
    assert abs(full.mean() - half.mean()) < 2 * error
    assert not np.array_equal(full, half)
