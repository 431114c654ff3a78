import dataclasses

import brightness
import by_hand
import folds_by_hand
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import metrics

import isp
from r2l_jax.drift import cases, statistics
from r2l_jax.drift.outcomes import from_text
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.training.run import load

OTHER = "bilinear.unsharp_masking.median_denoising"
INTENSITIES = np.linspace(0.3, 0.7, 12)


@pytest.fixture(scope="module")
def fold():
    dataset = brightness.images(INTENSITIES, INTENSITIES > brightness.BRIGHT)
    return brightness.fold(dataset, range(2), range(2, 12))


def evaluated(evaluator, fold, dataset, known):
    (numbers,) = evaluator.evaluate([fold], dataset, known)
    return numbers


def test_own_images_score_as_the_best_epoch_did(one_epoch):
    (fold,) = load(str(one_epoch.run_dir))
    own = evaluated(Evaluator(8), fold, fold.dataset, [cases.OWN])["own"]
    assert own["accuracy"] == pytest.approx(metrics(one_epoch)["best_val_accuracy"])
    assert own["loss"] == pytest.approx(metrics(one_epoch)["best_val_loss"], rel=1e-4)
    np.testing.assert_array_equal(own["confusion"], metrics(one_epoch)["val_confusion_matrix"])


def test_pipelines_are_followed_by_the_models_normalizer_and_head(fold):
    tests = evaluated(Evaluator(8), fold, fold.dataset, cases.pipelines([OTHER]))
    loss, confusion = by_hand.evaluate(fold, isp.static(fold.dataset.camera, *OTHER.split(".")))
    assert tests[OTHER]["loss"] == pytest.approx(loss, rel=1e-4)
    np.testing.assert_array_equal(tests[OTHER]["confusion"], confusion)


def test_numbers_of_a_corruption_follow_from_its_formula(fold):
    """The brightest corruption makes all images bright; the identity changes nothing."""
    known = [cases.OWN, *cases.corruptions(["identity"], [3]), *cases.corruptions(["brightness"], [5])]
    tests = evaluated(Evaluator(8), fold, fold.dataset, known)
    dark, bright = (int(count) for count in np.bincount(INTENSITIES[2:] > brightness.BRIGHT))
    assert (tests["own"]["accuracy"], tests["own"]["confusion"]) == (1, [[dark, 0], [0, bright]])
    assert tests["identity.3"]["loss"] == pytest.approx(tests["own"]["loss"], rel=1e-5)
    all_bright = tests["brightness.5"]
    assert all_bright["confusion"] == [[0, dark], [0, bright]]
    assert all_bright["accuracy"] == pytest.approx(bright / 10)
    assert all_bright["recall"] == {"dark": 0, "bright": 1}
    assert all_bright["precision"]["bright"] == pytest.approx(bright / 10)
    above = np.minimum(INTENSITIES[2:] ** (1 / 2.2) + 0.3, 1) - brightness.BRIGHT ** (1 / 2.2)
    signs = np.where(INTENSITIES[2:] > brightness.BRIGHT, -1, 1)
    assert all_bright["loss"] == pytest.approx(np.log1p(np.exp(2 * signs * above)).mean(), rel=1e-4)


def test_results_depend_neither_on_the_batch_size_nor_on_other_cases(fold):
    drawn = ("read_noise", "column_noise", "flicker")
    known = [
        cases.OWN,
        *cases.exposures([0.3]),
        *cases.sensor(drawn, [3]),
        *cases.corruptions(["gaussian_noise"], [5]),
    ]
    whole = evaluated(Evaluator(8), fold, fold.dataset, known)
    parts = evaluated(Evaluator(3), fold, fold.dataset, known[::-1])
    other = evaluated(Evaluator(8, seed=1), fold, fold.dataset, known[1:])
    for case in known:
        assert parts[case.name]["loss"] == pytest.approx(whole[case.name]["loss"], rel=1e-5)
        assert parts[case.name]["confusion"] == whole[case.name]["confusion"]
    for name in other:
        assert other[name]["loss"] != pytest.approx(whole[name]["loss"], rel=1e-6)


def test_mosaics_are_read_once_for_all_cases_and_not_kept(fold):
    read = []
    dataset = dataclasses.replace(fold.dataset, read=lambda index: read.append(index) or fold.dataset.read(index))
    evaluated(Evaluator(5), fold, dataset, [cases.OWN, *cases.corruptions(["identity"], [3])])
    assert sorted(read) == sorted(fold.valid_indices)
    assert "decoded" not in vars(dataset)


def test_test_samples_are_measured_if_there_are_any(fold):
    tested = dataclasses.replace(fold, split=fold.split._replace(valid=fold.split.train, test=fold.split.valid))
    own = evaluated(Evaluator(8), fold, fold.dataset, [cases.OWN])
    assert evaluated(Evaluator(8), tested, fold.dataset, [cases.OWN]) == own
    assert (fold.measured, tested.measured) == ("validation", "test")
    assert [each.measuring(fold.valid_indices[:3]).measured_indices.size for each in (fold, tested)] == [3, 3]


def test_outcomes_are_in_the_order_of_the_samples_whatever_the_batches():
    intensities = np.linspace(0.31, 0.71, 11)
    dataset = brightness.images(intensities, intensities > 0.45)
    samples = np.random.default_rng(0).permutation(11)
    fold = brightness.fold(dataset, (), samples)
    # The labels and the model differ on the sample of 0.47 alone.
    for size in (4, 11):
        own = evaluated(Evaluator(size), fold, dataset, [cases.OWN])["own"]
        counted, total = from_text(own["outcomes"], samples)
        assert samples[counted == 0].tolist() == [4]
        np.testing.assert_array_equal(total, 1)
        assert counted.mean() == pytest.approx(own["accuracy"])


def test_contributions_to_a_segmentation_average_to_its_intersection_over_union():
    as_made = brightness.half_images(0.3, 0.8, 5)

    def read(index):
        """In every other sample, the upper half is so bright that the model takes it for the object."""
        raw, mask = as_made.read(index)
        return np.concatenate([raw[:8] + 0.6 * (index % 2), raw[8:]]).astype(np.float32), mask

    dataset = dataclasses.replace(as_made, read=read)
    fold = brightness.fold(dataset, (), range(5))
    own = evaluated(Evaluator(2), fold, dataset, [cases.OWN])["own"]
    counted, total = from_text(own["outcomes"], fold.valid_indices)
    assert np.ptp(counted / total) > 0.3
    assert statistics.contributions(counted, total).mean() == pytest.approx(own["iou"], rel=1e-5)


def test_masks_move_with_the_shifted_pattern_and_with_no_other_drift():
    """The right half is the object; shifted by a site, 9 of the 16 columns are."""
    dataset = brightness.half_images(0.3, 0.8, 4)
    fold = brightness.fold(dataset, (), range(4))
    known = [cases.OWN, *cases.sensor(["pattern_shift", "motion", "chromatic_aberration"], [5])]
    tests = evaluated(Evaluator(3), fold, dataset, known)
    for case in known:
        columns = 16 * np.array(tests[case.name]["confusion"]).sum(1) / 4
        np.testing.assert_allclose(columns, [7, 9] if case.kind == "pattern_shift" else [8, 8], err_msg=case.name)
    # Where the mask did not move, a column of 16 would be wrong.
    wrong = {name: 1 - np.trace(tests[name]["confusion"]) / 4 for name in ("own", "pattern_shift.5")}
    assert wrong["pattern_shift.5"] == pytest.approx(wrong["own"], abs=0.02)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_an_ensemble_predicts_with_the_mean_of_the_probabilities(task):
    if task == "classification":
        dataset = brightness.images(INTENSITIES, INTENSITIES > 0.45)
    else:
        dataset = brightness.half_images(0.42, 0.55, 6)
    models = [brightness.model(dataset, gamma=gamma) for gamma in (1.5, 2.0, 2.6)]
    folds = [folds_by_hand.fold_of(dataset, (), range(6), model=model) for model in models]
    *alone, together = Evaluator(4).evaluate(folds, dataset, [cases.OWN])
    raws, targets = dataset.samples(np.arange(6))
    probabilities = np.mean([folds[0].task.probabilities(model(jnp.asarray(raws)), 16) for model in models], 0)
    right = probabilities.argmax(-1) == targets if task == "classification" else (probabilities > 0.5) == targets
    if task == "classification":
        assert together["own"]["accuracy"] == pytest.approx(right.mean())
        chances = probabilities[np.arange(6), targets]
        assert together["own"]["loss"] == pytest.approx(-np.log(chances).mean(), rel=1e-4)
    else:
        confusion = np.array(together["own"]["confusion"])
        assert np.trace(confusion) / confusion.sum() == pytest.approx(right.mean())
    for fold, numbers in zip(folds, alone, strict=True):
        assert evaluated(Evaluator(4), fold, dataset, [cases.OWN]) == numbers
