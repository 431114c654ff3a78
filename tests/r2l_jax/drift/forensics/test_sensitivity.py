import csv
import functools
import json

import folds_by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.forensics import sensitivity
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.ranges import moved
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.runtime import stop
from r2l_jax.runtime.files import write_csv
from r2l_jax.runtime.stop import Interrupted
from tasks.layers import BatchNorm, Conv

SIDE = 16
CAMERA = isp.Camera(
    black_level=(0.02, 0.03, 0.025, 0.02),
    white_balance=(1.3, 1.0, 1.2),
    color_matrix=((1.2, -0.1, -0.1), (-0.1, 1.3, -0.2), (0.0, -0.2, 1.2)),
    pattern="GRBG",
)
RNG = np.random.default_rng(0)
LABELS = np.array([2, 0, 1, 2, 2, 0, 2], np.int32)
# Neither so dark nor so bright that sharpening lets anything be clipped.
RAWS = (0.1 + 0.02 * LABELS[:, None, None] + 0.05 * RNG.random((len(LABELS), SIDE, SIDE))).astype(np.float32)
MASKS = (RNG.random(RAWS.shape) < 0.3).astype(np.uint8)
MASKS[1] = 0  # without an object
MEAN, STD = np.array([0.4, 0.5, 0.45]), np.array([0.2, 0.25, 0.3])
EVERY = np.arange(len(LABELS))


def dataset(task):
    targets = {"classification": LABELS, "segmentation": MASKS}[task]
    classes = ("a", "b", "c", "absent") if task == "classification" else ("car",)
    names = tuple(f"sample {index}" for index in EVERY)
    labels = LABELS if task == "classification" else np.zeros_like(LABELS)
    return RawDataset("test", task, classes, CAMERA, names, labels, lambda index: (RAWS[index], targets[index]))


class SmoothHead(nnx.Module):
    """Logits of images, or of their pixels, without the kinks that finite differences stumble over."""

    def __init__(self, classes, of_pixels):
        rngs = nnx.Rngs(1)
        self.conv, self.norm = Conv(3, 4, 3, rngs=rngs), BatchNorm(4, rngs=rngs)
        self.linear, self.of_pixels = nnx.Linear(4, classes, rngs=rngs), of_pixels

    def __call__(self, images):
        features = jnp.tanh(self.norm(self.conv(images)))
        return self.linear(features if self.of_pixels else features.mean((1, 2)))


def colored(raw, gains):
    return raw[..., None] * gains


class ColourHead(nnx.Module):
    """Mean red, green and blue are the logits of the first three classes."""

    def __call__(self, images):
        return jnp.pad(images.mean((1, 2)), ((0, 0), (0, 1)), constant_values=-jnp.inf)


def fold_of(task, pipeline, head):
    """A fold that validates a model on all samples."""
    normalizer = Standardize(jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32))
    model = RawToLogit(pipeline, normalizer, head)
    model.eval()
    return folds_by_hand.fold_of(dataset(task), [], EVERY, model=model)


def analyze(fold):
    return sensitivity.SensitivityAnalysis(4).analyze(fold, {})


@pytest.fixture(scope="module")
def compiled_once(small_heads):
    """Lets all tests share what they compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "Frozen", functools.cache(Frozen))
        yield


@pytest.fixture(scope="module", params=["classification", pytest.param("segmentation", marks=pytest.mark.slow)])
def case(request, compiled_once):
    """A fold, its frozen model, and the sensitivity of that, in batches of which the last is not full."""
    if request.param == "segmentation":
        fold = fold_of("segmentation", isp.static(CAMERA), SmoothHead(1, of_pixels=True))
    else:
        fold = fold_of("classification", isp.parametrized(CAMERA), SmoothHead(4, of_pixels=False))
    frozen = sensitivity.Frozen(fold.model, fold.task)
    return fold, frozen, sensitivity.measure(frozen, fold.dataset, EVERY, 4)


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max()), one, other)


def test_samples_know_nothing_of_batches_padding_and_each_other(case):
    fold, frozen, whole = case
    some = EVERY[[4, 1, 6]]
    alone = sensitivity.measure(frozen, fold.dataset, some, 100)
    assert_close(alone, jax.tree.map(lambda leaf: leaf[some], whole))
    assert all(leaf.shape[0] == len(EVERY) for leaf in jax.tree.leaves(whole))
    if fold.task.name == "segmentation":  # a mask without an object has no loss to change
        assert all((leaf[1] == 0).all() for leaf in jax.tree.leaves(whole))


def test_changes_are_those_of_the_measured_loss(case):
    fold, frozen, _ = case
    analysis = analyze(fold)
    overall = analysis.content["overall"]
    parts = [
        ("white_balance", 1, overall["elements"]["white_balance.green"]),
        ("colour_correction", 5, overall["elements"]["colour_correction.green_from_blue"]),
        ("black_level", 2, overall["elements"]["black_level.blue"]),
        ("gamma_correct", 0, overall["parameters"]["gamma_correct"]["together"]),
        ("white_balance", slice(None), overall["parameters"]["white_balance"]["together"]),
    ]
    ends = []
    for name, place, _ in parts:
        for end in (-0.01, 0.01):
            offset = np.zeros_like(frozen.default[name])
            offset.reshape(-1)[place] = end
            ends.append(frozen.default | jax.device_get(moved(frozen.facts, frozen.default, {name: offset})))
    # Sample by sample, since the Dice loss of several is not the mean of theirs.
    measurer, processings = Measurer(frozen), [frozen.default, *ends]
    alone = [measurer.measure(processings, [batch]) for batch in loader.eval_batches(fold.dataset, EVERY, 1)]
    default, *losses = np.mean([[measured.loss for measured in each] for each in alone], 0)
    assert overall["loss"] == pytest.approx(default, rel=1e-5)
    differences = np.diff(np.reshape(losses, (-1, 2)))[:, 0] / 2
    for (name, place, change), difference in zip(parts, differences, strict=True):
        assert change["mean"] == pytest.approx(difference, rel=2e-3), (name, place)


def test_closed_forms_of_a_head_that_averages(small_heads):
    gains = np.array([1.3, 1.0, 1.2])
    stages = [
        isp.Stage("gains", colored, {"white_balance": isp.Parameter(gains, scale="log")}),
        isp.Stage("tones", isp.color.gamma_correct, {"gamma_correct": isp.Parameter(2.2, scale="log")}),
    ]
    pipeline = isp.Pipeline(stages)
    fold = fold_of("classification", pipeline, ColourHead())
    found = sensitivity.measure(Frozen(fold.model, fold.task), fold.dataset, EVERY, 4)
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


def test_a_stop_ends_the_analysis_after_a_batch(case, monkeypatch):
    monkeypatch.setattr(stop, "requested", lambda: True)
    fold, _, _ = case
    with pytest.raises(Interrupted, match="stopped; the same command begins this analysis anew"):
        analyze(fold)


def test_an_analysis_has_means_of_classes_and_a_row_for_each_sample(case, tmp_path):
    fold, frozen, whole = case
    analysis = analyze(fold)
    content = analysis.content
    assert json.loads(json.dumps(content)) == content
    assert tuple(content["overall"]["stages"]) == frozen.pipeline(frozen.default).stage_names
    assert list(content["overall"]["parameters"]) == list(frozen.pipeline(frozen.default).parameters())
    overall, by_class = content["overall"], content["by_class"]
    assert list(by_class) == (["a", "b", "c"] if fold.task.name == "classification" else [])
    assert set(content["ranges"]) == {*frozen.default, "images"}
    assert content["ranges"]["black_level"] == {"width": 0.1, "stated": "0.1: moves by 0.001"}
    assert content["ranges"]["gamma_correct"]["stated"] == "the value itself: moves by a factor of 1.01"

    if by_class:
        counts = [means["samples"] for means in by_class.values()]
        assert counts == [2, 1, 4]
        flat = [jax.tree.leaves({**means, "samples": 0}) for means in (overall, *by_class.values())]
        np.testing.assert_allclose(np.average(flat[1:], axis=0, weights=counts), flat[0], rtol=1e-4, atol=1e-9)

    for name, values in whole.elements.items():
        titles = frozen.facts[name].element_names(name, values.shape[1:])
        for title, value in zip(titles, values.reshape(len(EVERY), -1).mean(0), strict=True):
            assert overall["elements"][title]["mean"] == pytest.approx(value, rel=1e-3, abs=1e-8)

    write_csv(tmp_path / "rows.csv", analysis.tables["sensitivity"])
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["sample"] for row in rows] == [f"sample {index}" for index in EVERY]
    assert [row.get("class") for row in rows] == ([*"cabccac"] if by_class else [None] * len(EVERY))
    worst = [float(row["after clipped worst"]) for row in rows]
    assert np.mean(worst) == pytest.approx(overall["stages"]["clipped"]["worst"], rel=1e-5)
    assert float(rows[2]["white_balance.blue"]) == pytest.approx(whole.elements["white_balance"][2, 2], rel=1e-3)

    lines = analysis.table.splitlines()
    assert lines[0] == sensitivity.UNIT
    (gains,) = (line.split() for line in lines if line.startswith("white_balance "))
    assert gains[1:3] == ["its", "value"]
    assert float(gains[3]) == pytest.approx(overall["parameters"]["white_balance"]["worst"], rel=1e-2)
    assert len(gains) == 5 + len(by_class)
    assert list(analysis.figures) == ["sensitivity_parameters", "sensitivity_stages"]
    for figure, rows in zip(analysis.figures.values(), (whole.parameters, whole.stages), strict=True):
        assert figure.axes[0].images[0].get_array().shape == (len(rows), 1 + len(by_class))
