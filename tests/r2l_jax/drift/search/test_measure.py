import numpy as np
import pytest
from small_runs import metrics

from r2l_jax.data import loader
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.training.run import open_runs


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    return fold


@pytest.fixture(scope="module")
def frozen(fold):
    return Frozen(fold.model, fold.task)


def batches(fold, size):
    return loader.eval_batches(fold.dataset, fold.valid_indices, size)


def test_the_default_measures_as_training_did(fold, frozen):
    (result,) = Measurer(frozen).measure([frozen.default], batches(fold, 8))
    assert result.score == pytest.approx(metrics(fold.config)["val_accuracy"])
    assert result.loss == pytest.approx(metrics(fold.config)["val_loss"], rel=1e-4)
    assert result.ssim == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(result.confusion.sum(0), metrics(fold.config)["val_confusion_matrix"])


def test_neither_batches_nor_neighbours_matter(fold, frozen):
    gains = [frozen.default | {"gamma_correct": np.float32(gamma)} for gamma in np.linspace(0.5, 5, 19)]
    measurer, ticks = Measurer(frozen), []
    together = measurer.measure(gains, batches(fold, 8), ticks.append)
    assert ticks == [16, 3]
    assert len({round(result.loss, 4) for result in together}) > 10
    for values, result in list(zip(gains, together, strict=True))[::6]:
        (alone,) = measurer.measure([values], batches(fold, 3))
        assert alone.loss == pytest.approx(result.loss, rel=1e-4)
        assert alone.ssim == pytest.approx(result.ssim, rel=1e-4)
        np.testing.assert_array_equal(alone.confusion, result.confusion)
    compiled = len(measurer._stacks._compiled)
    measurer.measure(gains[:2], batches(fold, 8))
    measurer.measure(gains[2:4], batches(fold, 8))
    assert len(measurer._stacks._compiled) == compiled + 1
