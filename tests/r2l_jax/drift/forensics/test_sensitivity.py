import folds_by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure

import isp
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.forensics import sensitivity
from r2l_jax.drift.measure import Samples
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit

SIDE = 16
CAMERA = isp.Camera(
    black_level=(0.02, 0.03, 0.025, 0.02),
    white_balance=(1.3, 1.0, 1.2),
    color_matrix=((1.2, -0.1, -0.1), (-0.1, 1.3, -0.2), (0.0, -0.2, 1.2)),
    pattern="GRBG",
)
RNG = np.random.default_rng(0)
LABELS = np.array([2, 0, 1, 2, 2, 0, 2], np.int32)
RAWS = (0.1 + 0.02 * LABELS[:, None, None] + 0.05 * RNG.random((len(LABELS), SIDE, SIDE))).astype(np.float32)
MEAN, STD = np.array([0.4, 0.5, 0.45]), np.array([0.2, 0.25, 0.3])
EVERY = np.arange(len(LABELS))
NAMES, CLASSES = tuple(f"sample {index}" for index in EVERY), ("a", "b", "c", "absent")
DATASET = RawDataset(
    "test", "classification", CLASSES, CAMERA, NAMES, LABELS, lambda index: (RAWS[index], LABELS[index])
)


class ColourHead(nnx.Module):
    """Mean red, green and blue are the logits of the first three classes."""

    def __call__(self, images):
        return jnp.pad(images.mean((1, 2)), ((0, 0), (0, 1)), constant_values=-jnp.inf)


def fold_of(pipeline):
    """A fold that validates a model on all samples."""
    normalizer = Standardize(jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32))
    model = RawToLogit(pipeline, normalizer, ColourHead())
    model.eval()
    return folds_by_hand.fold_of(DATASET, [], EVERY, model=model)


@pytest.fixture(scope="module")
def case(small_heads):
    """A fold, its frozen model, and the sensitivity of that, in batches of which the last is not full."""
    fold = fold_of(isp.parametrized(CAMERA))
    frozen = Frozen(fold.model, fold.task)
    return fold, frozen, sensitivity.measure(frozen, Samples.of(fold, 4))


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max()), one, other)


def test_samples_know_nothing_of_batches_padding_and_each_other(case):
    fold, frozen, whole = case
    some = EVERY[[4, 1, 6]]
    alone = sensitivity.measure(frozen, Samples(fold.task, fold.dataset, some, 100))
    assert_close(alone, jax.tree.map(lambda leaf: leaf[some], whole))
    assert all(leaf.shape[0] == len(EVERY) for leaf in jax.tree.leaves(whole))


def test_closed_forms_of_a_head_that_averages(small_heads):
    gains = np.array([1.3, 1.0, 1.2])
    stages = [
        isp.Stage(
            "gains", lambda raw, gains: raw[..., None] * gains, {"white_balance": isp.Parameter(gains, scale="log")}
        ),
        isp.Stage("tones", isp.color.gamma_correct, {"gamma_correct": isp.Parameter(2.2, scale="log")}),
    ]
    fold = fold_of(isp.Pipeline(stages))
    found = sensitivity.measure(Frozen(fold.model, fold.task), Samples.of(fold, 4))
    assert (list(found.parameters), list(found.stages)) == (["white_balance", "gamma_correct"], ["gains", "tones"])

    linear = RAWS[..., None] * gains
    images = linear ** (1 / 2.2)
    slopes = images / (2.2 * linear)
    logits = (images.mean((1, 2)) - MEAN) / STD
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    of_mean = (probabilities - np.eye(3)[LABELS]) / STD  # the loss's gradient for the mean color
    np.testing.assert_allclose(found.loss, -np.log(probabilities[EVERY, LABELS]), rtol=1e-5)

    by_gains = of_mean * (slopes * linear).mean((1, 2))  # moved by factors
    by_gamma = -(of_mean * (images * np.log(images)).mean((1, 2))).sum(1)
    for change, signed, absolute in (
        (found.stages["tones"], of_mean.sum(1), np.abs(of_mean).sum(1)),
        (found.stages["gains"], *((each * slopes.mean((1, 2))).sum(1) for each in (of_mean, np.abs(of_mean)))),
        (found.parameters["white_balance"], by_gains.sum(1), np.abs(by_gains).sum(1)),
        (found.parameters["gamma_correct"], by_gamma, np.abs(by_gamma)),
    ):
        np.testing.assert_allclose(change.worst, absolute / 100, rtol=1e-4)
        np.testing.assert_allclose(change.together, signed / 100, atol=1e-4 * absolute.max() / 100)
    assert list(found.elements) == ["white_balance"]
    np.testing.assert_allclose(found.elements["white_balance"], by_gains / 100, rtol=1e-4)


@pytest.mark.shows(
    "forensics.sensitivity parameters.csv: *, natural range, together, worst, worst,{}, parameters",
    "forensics.sensitivity stages.csv: *, images, together, worst, worst,{}, natural range",
    "forensics.sensitivity values.csv: value, mean, mean of absolute values",
    "forensics.sensitivity figures: parameters, stages",
    "forensics.sensitivity keys: notes",
)
def test_the_tables_have_means_over_all_samples_and_over_each_class(case):
    fold, frozen, whole = case
    found = sensitivity.analyze(fold, 4)
    for name, changes in (("parameters", whole.parameters), ("stages", whole.stages)):
        table = found.tables[name]
        assert [row[0] for row in table.rows] == [f"after {each}" if name == "stages" else each for each in changes]
        assert [column.name for column in table.columns[4:]] == [f"worst, {each}" for each in "abc"]
        for row, change in zip(table.rows, changes.values(), strict=True):
            assert_close(row[2:4], [change.worst.mean(), change.together.mean()])
            assert_close(row[4:], [change.worst[number == LABELS].mean() for number in range(3)])
    values = found.tables["values"].numbers("mean of absolute values")
    for name, each in whole.elements.items():
        titles = frozen.declarations[name].element_names(name, each.shape[1:])
        expected = np.abs(each).mean(0).ravel()
        np.testing.assert_allclose([values[title] for title in titles], expected, rtol=1e-3, atol=1e-8)
        means = found.tables["values"].numbers("mean")
        np.testing.assert_allclose([means[title] for title in titles], each.mean(0).ravel(), rtol=1e-3, atol=1e-7)
    ranges = {row[0]: row[1] for row in found.tables["parameters"].rows}
    assert (ranges["gamma_correct"], ranges["black_level"]) == ("its value", frozen.declarations["black_level"].width)
    assert {row[1] for row in found.tables["stages"].rows} == {1.0}
    assert found.metadata["notes"] == [f"the mean loss is {whole.loss.mean():.4f}"]
    for name in ("parameters", "stages"):
        axes = Figure().subplots()
        found.figures[name].draw(axes)
        shown = [[row[2], *row[4:]] for row in found.tables[name].rows]
        np.testing.assert_allclose(axes.images[0].get_array(), shown, rtol=1e-5)
