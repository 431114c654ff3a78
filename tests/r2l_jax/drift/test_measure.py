import dataclasses
import json

import brightness
import by_hand
import jax.numpy as jnp
import numpy as np
import pytest
from outcomes import ACCURACY, IOU, of_counts
from small_runs import metrics

import isp
from r2l_jax.drift import cases, measure
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Samples
from r2l_jax.drift.renderer import Renderer
from r2l_jax.errors import InputError
from r2l_jax.results.result import Arrays
from r2l_jax.training.run import load

OTHER = "bilinear.unsharp_masking.median_denoising"
INTENSITIES = np.linspace(0.3, 0.7, 12)
DATASET = brightness.images(INTENSITIES, INTENSITIES > brightness.BRIGHT)


@pytest.fixture(scope="module")
def fold():
    return brightness.fold(DATASET, range(2), range(2, 12))


def measured(fold, known, size=8, **options):
    return measure.measure({"model": Model(fold.model)}, known, Samples.of(fold, size, **options))


def test_own_images_score_as_the_best_epoch_did(one_epoch):
    (fold,) = load(str(one_epoch.run_dir))
    own = measured(fold, [CLEAN])
    assert own.score("model") == pytest.approx(metrics(one_epoch)["best_val_accuracy"])
    assert own.loss_of("model") == pytest.approx(metrics(one_epoch)["best_val_loss"], rel=1e-4)


def test_pipelines_are_followed_by_the_models_normalizer_and_head(fold):
    found = measured(fold, cases.pipelines([OTHER]))
    loss, confusion = by_hand.evaluate(fold, isp.static(fold.dataset.camera, *OTHER.split(".")))
    assert found.loss_of("model", OTHER) == pytest.approx(loss, rel=1e-4)
    assert found.score("model", OTHER) == pytest.approx(np.trace(confusion) / 10)


def test_numbers_of_a_corruption_follow_from_its_formula(fold):
    """The brightest corruption makes all images bright; the identity changes nothing."""
    known = [CLEAN, *cases.corruptions(["identity"], [3]), *cases.corruptions(["brightness"], [5])]
    found, bright = measured(fold, known), INTENSITIES[2:] > brightness.BRIGHT
    assert found.score("model") == 1
    assert found.loss_of("model", "identity.3") == pytest.approx(found.loss_of("model"), rel=1e-5)
    outcome = found.at("model", "brightness.5")
    np.testing.assert_array_equal(outcome["predicted"] == outcome["target"], bright)
    above = np.minimum(INTENSITIES[2:] ** (1 / 2.2) + 0.3, 1) - brightness.BRIGHT ** (1 / 2.2)
    loss = np.log1p(np.exp(2 * np.where(bright, -1, 1) * above)).mean()
    assert found.loss_of("model", "brightness.5") == pytest.approx(loss, rel=1e-4)


def test_results_depend_neither_on_the_batch_size_nor_on_other_cases_but_on_the_seed(fold):
    drawn = cases.sensor(["read_noise", "column_noise"], [3])
    known = [CLEAN, *cases.exposures([0.3]), *drawn, *cases.corruptions(["gaussian_noise"], [5])]
    whole, parts, other = measured(fold, known), measured(fold, known[::-1], 3), measured(fold, known[1:], seed=1)
    for name in whole.cases:
        assert parts.loss_of("model", name) == pytest.approx(whole.loss_of("model", name), rel=1e-5)
        for array, other_array in zip(parts.at("model", name).values(), whole.at("model", name).values(), strict=True):
            np.testing.assert_array_equal(array, other_array)
    for name in other.cases:
        assert other.loss_of("model", name) != pytest.approx(whole.loss_of("model", name), rel=1e-6)


def test_nothing_is_compiled_again_for_another_batch_strength_or_model_of_the_same_structure(fold):
    def sizes():
        functions, renderer = measure._functions(), measure._renderer(0)
        compiled = functions.logits, functions.outcomes, renderer._drift, renderer._process, renderer._corrupt
        return [each._cache_size() for each in compiled]

    known = [*cases.exposures([0.3, 0.5]), *cases.corruptions(["contrast"], [1, 5])]
    measured(fold, known[::2], 4)
    before = sizes()
    measured(brightness.fold(DATASET, (), range(8)), known, 4)
    models = {"a": Model(fold.model), "b": Model(brightness.model(DATASET, 1.8))}
    measure.measure(models, known, Samples.of(fold, 4))
    assert sizes() == before


def test_mosaics_are_read_once_and_a_pipeline_that_models_share_renders_once(fold, monkeypatch):
    read, rendered, images = [], [], Renderer.images
    dataset = dataclasses.replace(fold.dataset, read=lambda index: read.append(index) or fold.dataset.read(index))

    def watched(*arguments):
        for rendering, of_models in images(*arguments):
            rendered.append((rendering.name, len(of_models)))
            yield rendering, of_models

    monkeypatch.setattr(Renderer, "images", watched)
    models = {name: Model(brightness.model(DATASET, gamma)) for name, gamma in (("a", 2.2), ("b", 1.8))}
    samples = Samples.of(fold, 10)._replace(dataset=dataset)
    measure.measure(models, [CLEAN, *cases.pipelines([OTHER]), *cases.corruptions(["contrast"], [3])], samples)
    # One more is read, whose size tells how many fit into memory.
    assert sorted(read[1:]) == sorted(fold.split.valid)
    assert sorted(rendered) == [(OTHER, 1), ("clean", 2), ("contrast.3", 2)]


def test_test_samples_are_measured_if_there_are_any(fold):
    tested = dataclasses.replace(fold, split=fold.split._replace(valid=fold.split.train, test=fold.split.valid))
    np.testing.assert_array_equal(measured(tested, [CLEAN]).samples, fold.split.valid)


@pytest.mark.parametrize("size", [4, 11])
def test_outcomes_are_in_the_order_of_the_samples_whatever_the_batches(size):
    intensities = np.linspace(0.31, 0.71, 11)
    dataset = brightness.images(intensities, intensities > 0.45)
    samples = np.random.default_rng(0).permutation(11)
    # The labels and the model differ on the sample of 0.47 alone.
    found = measured(brightness.fold(dataset, (), samples), [CLEAN], size)
    outcome = found.at("model")
    assert samples[outcome["predicted"] != outcome["target"]].tolist() == [4]
    np.testing.assert_array_equal(outcome["target"], (intensities > 0.45)[samples])


def test_contributions_to_a_segmentation_average_to_its_intersection_over_union():
    as_made = brightness.half_images(0.3, 0.8, 5)

    def read(index):
        """In every other sample, the upper half is so bright that the model takes it for the object."""
        raw, mask = as_made.read(index)
        return np.concatenate([raw[:8] + 0.6 * (index % 2), raw[8:]]).astype(np.float32), mask

    fold = brightness.fold(dataclasses.replace(as_made, read=read), (), range(5))
    found = measured(fold, [CLEAN], 2)
    (_, false_positive), (false_negative, positive) = np.moveaxis(found.at("model")["confusion"], 0, -1)
    assert np.ptp(positive / (positive + false_positive + false_negative)) > 0.3
    _, confusion = by_hand.evaluate(fold, fold.model.processor)
    assert found.score("model") == pytest.approx(confusion[1, 1] / (confusion.sum() - confusion[0, 0]), rel=1e-5)
    assert found.by_group("model").mean() == pytest.approx(found.score("model"))


def test_masks_move_with_the_shifted_pattern():
    """The right half is the object; where the mask did not move with it, a column of 16 would be wrong."""
    fold = brightness.fold(brightness.half_images(0.3, 0.8, 4), (), range(4))
    found = measured(fold, [CLEAN, *cases.sensor(["pattern_shift"], [5])], 3)
    own, shifted = (16 * (1 - found.at("model", case)["confusion"][:, 0, 0].mean()) for case in found.cases)
    assert found.score("model", "pattern_shift.5") == pytest.approx(found.score("model"), abs=0.05)
    assert shifted == pytest.approx(own + 1, abs=0.5)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_an_ensemble_predicts_with_the_mean_of_the_probabilities(task):
    images = brightness.images(INTENSITIES, INTENSITIES > 0.45)
    dataset = images if task == "classification" else brightness.half_images(0.42, 0.55, 6)
    fold = brightness.fold(dataset, (), range(6))
    models = {str(gamma): Model(brightness.model(dataset, gamma)) for gamma in (1.5, 2.0, 2.6)}
    found = measure.measure(models, [CLEAN], Samples.of(fold, 4), ensemble="ensemble")
    raws, targets = dataset.samples(np.arange(6))
    chances = [fold.task.probabilities(each.model(jnp.asarray(raws)), 16) for each in models.values()]
    together = np.mean(chances, 0)
    if task == "classification":
        assert found.score("ensemble") == pytest.approx((together.argmax(-1) == targets).mean())
        loss = -np.log(together[np.arange(6), targets]).mean()
        assert found.loss_of("ensemble") == pytest.approx(loss, rel=1e-4)
    else:
        predicted = together > 0.5
        confusion = found.at("ensemble")["confusion"]
        np.testing.assert_allclose(confusion[:, 1, 1], (predicted & (targets > 0)).mean((1, 2)), atol=1e-6)
        np.testing.assert_allclose(1 - confusion[:, 0, 0], (predicted | (targets > 0)).mean((1, 2)), atol=1e-6)
    for name, each in models.items():
        alone = measure.measure({name: each}, [CLEAN], Samples.of(fold, 4))
        assert alone.loss_of(name) == found.loss_of(name)


def test_values_that_are_stacked_give_what_each_gives_alone(fold):
    default = fold.model.processor.parameters()
    values = [default | {"gamma_correct": gamma} for gamma in np.linspace(1, 3, 19, dtype=np.float32)]
    models = {str(number): Model(fold.model, each) for number, each in enumerate(values)}
    known = [CLEAN, *cases.exposures([0.7])]
    together = measure.measure(models, known, Samples.of(fold, 4))
    assert together.models == (*models,)
    assert len({round(loss, 6) for loss in together.loss[:, 0]}) == 19
    for name in ("0", "7", "18"):
        processor = fold.model.processor.with_values(values[int(name)])
        model = fold.model.processed_by(processor)
        alone = measure.measure({name: Model(model)}, known, Samples.of(fold, 8))
        for case in together.cases:
            assert alone.loss_of(name, case) == pytest.approx(together.loss_of(name, case), rel=1e-5)
            for array, other in zip(alone.at(name, case).values(), together.at(name, case).values(), strict=True):
                np.testing.assert_array_equal(array, other)


SAMPLES = np.array([7, 3, 11, 2, 5, 19, 4, 6, 8])
BITS = np.arange(9) % 2
SHARES = np.stack([np.linspace(0, 0.4, 9), np.linspace(0, 0.5, 9)]).astype(np.float32)


def outcomes(counted, total=1.0, samples=SAMPLES, groups=None, model="a", scoring=ACCURACY):
    """The outcomes of a model on its clean images."""
    counted, total = np.asarray(counted)[None, None], np.asarray(total)
    return of_counts([model], ["clean"], samples, counted, total, np.ones((1, 1)), groups, scoring)


def test_outcomes_come_back_as_they_were_packed():
    groups = np.array([0, 0, 7, 7, 2, 2, 3, 3, 4])
    blocks = [outcomes(BITS), outcomes(*SHARES, model="b", scoring=IOU), outcomes(BITS, groups=groups)]
    blocks[0] = blocks[0].joined(outcomes(1 - BITS)._replace(cases=("contrast.1",)))
    found = measure.unpacked_blocks(measure.packed_blocks(blocks))
    for before, after in zip(blocks, found, strict=True):
        assert (before.models, before.cases, before.scoring) == (after.models, after.cases, after.scoring)
        for name in ("samples", "loss"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        np.testing.assert_array_equal(before.arrays["confusion"], after.arrays["confusion"])
    assert found[0].groups is None
    np.testing.assert_array_equal(found[2].groups, groups)
    # Four groups have one of two right, and group 4 none of one: without it, 4 of 8, and without another, 3 of 7.
    left = np.array([3 / 7, 3 / 7, 3 / 7, 0.5, 3 / 7])
    np.testing.assert_allclose(found[2].by_group("a"), 4 / 9 + 4 * (left.mean() - left))


@pytest.mark.parametrize("change", [{"score": ["iou:z", "a", "b"]}, {"models": ["a", "b"]}, {"score": 3}])
def test_damaged_outcomes_are_one_line(change):
    arrays, about = measure.packed_blocks([outcomes(BITS)])
    damaged = {"0": json.dumps({**json.loads(about["0"]), **change})}
    with pytest.raises(InputError, match=r"the outcomes of samples are damaged .*: measure them again"):
        measure.unpacked_blocks(Arrays(arrays, damaged))


def test_folds_of_the_same_samples_are_averaged_and_others_joined():
    first, same = outcomes([1, 1], samples=[3, 5]), outcomes([0, 1], samples=[3, 5])
    np.testing.assert_allclose(measure.over_folds([("a", first), ("a", same)]), [0.5, 1])
    apart = outcomes([0, 1, 0], samples=[4, 6, 7])
    np.testing.assert_allclose(measure.over_folds([("a", first), ("a", apart)]), [1, 0, 1, 1, 0], atol=1e-12)


def test_a_sample_of_several_folds_is_one_sample():
    """Samples 3 and 5 are validated in two random splits each, in which they are right once and twice."""
    folds = [outcomes([0, 1], samples=[3, 5]), outcomes([1, 0], samples=[3, 8]), outcomes([1, 1], samples=[5, 9])]
    np.testing.assert_allclose(measure.over_folds([("a", each) for each in folds]), [0.5, 1, 0, 1], atol=1e-12)
    grouped = [each._replace(groups=each.samples // 4) for each in folds]
    # Samples 3, then 5, then 8 and 9 are groups: without them, 2 of 3, 1.5 of 3 and 1.5 of 2 are right.
    left = np.array([2 / 3, 1.5 / 3, 1.5 / 2])
    np.testing.assert_allclose(
        measure.over_folds([("a", each) for each in grouped]), 2.5 / 4 + 2 * (left.mean() - left)
    )
