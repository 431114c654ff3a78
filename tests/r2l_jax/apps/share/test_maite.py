"""Drifts in the tools of MAITE, whose own `evaluate` runs them, and MAITE's parts in ours."""

import dataclasses
import json
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
from beartype.door import is_bearable
from PIL import Image

import isp
import r2l_jax
from r2l_jax.errors import InputError
from r2l_jax.results import result

pytest.importorskip("maite")

from maite.protocols import generic, object_detection
from maite.tasks import evaluate

CAMERA = isp.Camera((0.1,) * 4, (1.0, 1.0, 1.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)), full_well=1e6, read_noise=1.0)
LEVELS = (90, 150)


@dataclasses.dataclass
class Target:
    boxes: Any
    labels: Any
    scores: Any


class Levels:
    """Gray pictures, dark and bright, five of each scene, with one-hot targets."""

    metadata: ClassVar = {"id": "levels", "index2label": {0: "dark", 1: "bright"}}

    def __init__(self, count=20, spread=15, kind=np.asarray):
        random = np.random.default_rng(0)
        self.labels = np.arange(count) % 2
        levels = np.array(LEVELS)[self.labels] + random.integers(-spread, spread + 1, count)
        self.pictures = [kind(np.full((3, 16, 14), level, np.uint8)) for level in levels]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.pictures[index], np.eye(2)[self.labels[index]], {"id": index, "scene": index // 5}


class Threshold:
    """A classifier at a level of 120, which returns probabilities, or logits."""

    metadata: ClassVar = {"id": "my/threshold 1"}

    def __init__(self, probabilities=True):
        self.probabilities, self.kinds = probabilities, set()

    def __call__(self, batch):
        self.kinds |= {(type(picture), picture.dtype, picture.shape) for picture in batch}
        levels = [np.mean(each) * (1 if each.dtype == np.uint8 else 255) for each in map(np.asarray, batch)]
        logits = [np.array([0.0, (level - 120) / 10]) for level in levels]
        return [np.exp(each) / np.exp(each).sum() if self.probabilities else each for each in logits]


class Accuracy:
    metadata: ClassVar = {"id": "own"}

    def reset(self):
        self.right = []

    def update(self, predictions, targets, metadata):
        pairs = zip(predictions, targets, metadata, strict=True)
        self.right += [np.argmax(found) == np.argmax(true) for found, true, _ in pairs]

    def compute(self):
        return {"count": len(self.right), "right": np.mean(self.right)}


class Blobs:
    """Pictures with up to two squares of 6 pixels, with boxes; the first has none."""

    metadata: ClassVar = {"id": "blobs", "index2label": {3: "cell", 7: "dust"}}

    def __init__(self, count=12):
        random, self.data = np.random.default_rng(0), []
        for number in range(count):
            picture, boxes, labels = np.full((3, 32, 32), 40, np.uint8), [], []
            for place in range(min(number, random.integers(1, 3))):
                (row, column), label = (4 + 14 * place + random.integers(0, 6), random.integers(4, 22)), (3, 7)[place]
                picture[:, row : row + 6, column : column + 6] = {3: 200, 7: 120}[label]
                boxes.append([column, row, column + 6, row + 6])
                labels.append(label)
            target = Target(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int), np.ones(len(labels)))
            self.data.append((picture, target, {"id": f"picture {number}"}))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


class Finder:
    """Finds the squares of `Blobs`, and something of an unknown class; scores are of all classes."""

    metadata: ClassVar = {"id": "finder"}

    def __call__(self, batch):
        return [self.found(np.asarray(picture)[1]) for picture in batch]

    def found(self, picture):
        boxes, labels = [[0, 0, 9, 9]], [5]
        for half in (slice(0, 16), slice(16, 32)):
            rows, columns = np.nonzero(picture[half] > 80)
            if len(rows):
                top, bottom, left, right = (
                    rows.min() + half.start,
                    rows.max() + half.start,
                    columns.min(),
                    columns.max(),
                )
                boxes.append([left, top, right + 1, bottom + 1])
                labels.append(3 if picture[half].max() > 160 else 7)
        return Target(np.array(boxes, np.float32), np.array(labels), np.tile([0.9, 0.1], (len(labels), 1)))


class Missed:
    metadata: ClassVar = {"id": "found"}

    def reset(self):
        self.labels = []

    def update(self, predictions, targets, metadata):
        assert is_bearable([*predictions, *targets], list[object_detection.ObjectDetectionTarget])
        self.labels += [sorted(p.labels) == sorted(t.labels) for p, t in zip(predictions, targets, strict=True)]

    def compute(self):
        return {"same labels": np.mean(self.labels)}


def augmented(augmentation, dataset, batch_size=1):
    """The pictures, targets and metadata that MAITE's own evaluation gives to a model."""
    _, _, batches = evaluate(
        model=Threshold(), dataset=dataset, augmentation=augmentation, batch_size=batch_size, return_augmented_data=True
    )
    return [[each for batch in batches for each in batch[part]] for part in range(3)]


def half_as_bright(values, factor=0.5):
    """Values of pictures after a tone curve of gamma 2.2, of less light."""
    return 255 * ((np.asarray(values) / 255) ** 2.2 * factor) ** (1 / 2.2)


@pytest.fixture
def levels():
    return Levels()


@pytest.mark.shows("r2l_jax.maite.Augmentation(sensor)")
def test_an_augmentation_has_maites_form_and_halves_the_light(levels):
    augmentation = r2l_jax.maite.Augmentation(CAMERA, sensor="exposure=-1")
    assert isinstance(augmentation, generic.Augmentation)
    pictures, targets, metadata = augmented(augmentation, levels)
    assert {(each.dtype, each.shape) for each in pictures} == {(np.dtype("uint8"), (3, 16, 14))}
    means, clean = ([np.mean(each) for each in some] for some in (pictures, levels.pictures))
    np.testing.assert_allclose(means, half_as_bright(clean), atol=0.6)
    np.testing.assert_array_equal(targets, np.eye(2)[levels.labels])
    assert [(datum["id"], datum["scene"]) for datum in metadata[5:7]] == [(5, 1), (6, 1)]
    assert metadata[0]["r2l_jax"][0]["state"] == {"exposure": -1.0}


def test_maites_evaluation_finds_what_less_light_costs(levels):
    """At a light of 0.73 to 1 of its level, every bright picture is below 120, and every dark one anyway."""
    kept, lost = (
        evaluate(model=Threshold(), dataset=levels, metric=Accuracy(), augmentation=each)[0]["right"]
        for each in (r2l_jax.maite.Augmentation(CAMERA), r2l_jax.maite.Augmentation(CAMERA, sensor={"exposure": -1}))
    )
    assert (kept, lost) == (1.0, 0.5)


def test_without_a_drift_smooth_pictures_of_any_size_stay():
    picture = np.broadcast_to(np.arange(90, 120, 2, np.uint8), (3, 13, 15))
    made = r2l_jax.maite.Augmentation("drone")(([picture], [None], [{"id": 0}]))[0][0]
    assert np.abs(made.astype(int) - picture)[:, 2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255), (250, 250, 120)])
def test_without_a_drift_colors_stay_and_white_is_white(color):
    """The drone's black level leaves 94% of the range; its red gain is 2.9."""
    picture = np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, 8, 8))
    made = r2l_jax.maite.Augmentation("drone")(([picture], [None], [{"id": 0}]))[0][0]
    np.testing.assert_allclose(made, picture.astype(float), atol=1)


@pytest.mark.shows("r2l_jax.maite.Augmentation(seed)")
def test_draws_depend_on_the_id_and_not_on_the_batch(levels):
    augmentation = r2l_jax.maite.Augmentation(CAMERA, sensor="read_noise=10000", seed=3)
    alone, together = (augmented(augmentation, levels, size)[0] for size in (1, 7))
    np.testing.assert_array_equal(alone, together)
    assert np.std(alone[0]) > 1
    other = r2l_jax.maite.Augmentation(CAMERA, sensor="read_noise=10000", seed=4)
    assert not np.array_equal(augmented(other, levels)[0][0], alone[0])
    assert not np.array_equal(alone[0] - levels.pictures[0], alone[2] - levels.pictures[2])


@pytest.mark.shows("r2l_jax.maite.Augmentation(pipeline)")
@pytest.mark.parametrize("shifted", [100, 50])
def test_boxes_move_with_the_pixels(shifted):
    raw = np.zeros((1, 12, 16), np.float32)
    raw[0, 2:5, 4:9] = raw[0, 8:11, 1:3] = 0.5
    boxes = np.array([[4, 2, 9, 5], [1, 8, 3, 11]])
    targets = [Target(boxes, np.array([1, 2]), np.ones(2)), Target(np.empty(0), np.empty(0), np.empty(0)), np.eye(3)[0]]
    augmentation = r2l_jax.maite.Augmentation(CAMERA, sensor={"pattern_shift": shifted}, pipeline=None)
    (moved, *_), (target, empty, label), _ = augmentation(([raw] * 3, targets, [{"id": n} for n in range(3)]))
    expected = boxes - np.array([[1, 0, 1, 0]]) * (np.array([[True], [True]]) if shifted == 100 else [[False], [True]])
    np.testing.assert_array_equal(target.boxes, expected)
    assert target.boxes.dtype == boxes.dtype
    assert is_bearable([target, empty], list[object_detection.ObjectDetectionTarget])
    for left, top, right, bottom in expected:
        assert (moved[0, top:bottom, left:right] == 0.5).all()
    assert (moved == 0.5).sum() == (raw == 0.5).sum()
    assert empty.boxes.shape == (0, 4)
    assert label is targets[2]


@pytest.mark.shows("r2l_jax.maite.Augmentation(other, camera)")
def test_another_cameras_gains_and_levels_are_simulated(tmp_path):
    """Half the gain of red tells of twice the light at red sites; the tone curve takes its root."""
    other = dataclasses.replace(CAMERA, white_balance=(0.5, 1.0, 1.0))
    (tmp_path / "other.json").write_text(other.to_json())
    picture = np.full((3, 16, 16), 100, np.uint8)
    for given in (other, tmp_path / "other.json"):
        augmentation = r2l_jax.maite.Augmentation(CAMERA, other=given)
        (made,), _, (datum,) = augmentation(([picture], [None], [{"id": 0}]))
        np.testing.assert_allclose(made.mean((1, 2)), [half_as_bright(100, 2), 100, 100], atol=0.6)
        done = datum["r2l_jax"][0]
        assert done["state"]["red_gain"] == 1.0
        assert json.loads(done["camera"])["black_level"] == [0.1] * 4


@pytest.mark.shows("r2l_jax.maite.Augmentation(envelope)")
@pytest.mark.parametrize("envelope", [{"exposure": (-1, 0.3), "defocus": [0, 0.5]}, "default"])
def test_each_picture_has_a_state_within_the_envelope_that_its_metadata_repeat(envelope, levels):
    augmentation = r2l_jax.maite.Augmentation("drone", envelope=envelope, seed=5)
    pictures, _, metadata = augmented(augmentation, levels)
    states = [datum["r2l_jax"][0]["state"] for datum in metadata]
    exposures = [state["exposure"] for state in states]
    assert len(set(exposures)) == len(levels)
    assert -1 <= min(exposures) < -0.7 < 0 < max(exposures) <= 0.3
    again = r2l_jax.maite.Augmentation("drone", sensor=states[4], seed=5)
    picture, _, datum = levels[4]
    np.testing.assert_array_equal(again(([picture], [None], [datum]))[0][0], pictures[4])


def test_another_seed_draws_other_states_and_noise(levels):
    envelope = {"exposure": (-1, 0.3), "read_noise": [1, 2]}
    drawn = [augmented(r2l_jax.maite.Augmentation("drone", envelope=envelope, seed=seed), levels) for seed in (5, 6, 5)]
    states = [[datum["r2l_jax"][0]["state"] for datum in metadata] for _, _, metadata in drawn]
    assert states[0] == states[2]
    for name in envelope:
        first, second = ([state[name] for state in of_seed] for of_seed in states[:2])
        assert not set(first) & set(second)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.6
    noisy = [r2l_jax.maite.Augmentation(CAMERA, sensor="read_noise=10000", seed=seed) for seed in (5, 6)]
    pictures = [augmented(each, levels)[0] for each in noisy]
    assert all((one != other).mean() > 0.5 for one, other in zip(*pictures, strict=True))


def test_a_chain_of_augmentations_lists_all_of_them(levels):
    first, second = (r2l_jax.maite.Augmentation(CAMERA, sensor=each) for each in ("exposure=-1", "bits=4"))
    _, _, (datum,) = second(first(([levels.pictures[0]], [None], [{"id": 0}])))
    assert [done["state"] for done in datum["r2l_jax"]] == [{"exposure": -1.0}, {"bits": 4.0}]


def test_a_transform_takes_pictures_of_pil_arrays_and_tensors():
    transform = r2l_jax.maite.Augmentation(CAMERA, sensor="exposure=-1").transform
    array = np.full((15, 20, 3), 100, np.uint8)
    expected = half_as_bright(100)
    found = transform(Image.fromarray(array))
    assert isinstance(found, Image.Image)
    assert found.size == (20, 15)
    np.testing.assert_allclose(np.mean(found), expected, atol=0.6)
    np.testing.assert_allclose(transform(array).mean(), expected, atol=0.6)
    np.testing.assert_allclose(transform(array / 255).mean() * 255, expected, atol=0.1)
    torch = pytest.importorskip("torch")
    tensor = transform(torch.full((3, 15, 20), 100, dtype=torch.uint8))
    assert (tensor.dtype, tensor.shape) == (torch.uint8, (3, 15, 20))
    np.testing.assert_allclose(tensor.float().mean(), expected, atol=0.6)


def test_a_transform_draws_anew_and_travels_to_workers():
    picture = np.full((16, 16, 3), 100, np.uint8)
    first, second = (r2l_jax.maite.Augmentation(CAMERA, sensor="read_noise=10000", seed=1) for _ in range(2))
    drawn = [first.transform(picture) for _ in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal([pickle.loads(pickle.dumps(second)).transform(picture)], drawn[:1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sensor": "exposure=-1", "envelope": "default"}, "give only one of `sensor`, `other` and `envelope`"),
        ({"sensor": {"exposure": -99}}, "`sensor=exposure=-99`: exposure must be from -20 to 20"),
        ({"other": dataclasses.replace(CAMERA, pattern="GRBG")}, "`other=other` must have the pattern RGGB, got GRBG"),
        ({"envelope": {"speed": [0, 1]}}, "`envelope`: speed is not one of exposure, "),
        ({"pipeline": "fast"}, "no pipeline is called 'fast'"),
        ({"camera": "auto"}, "`camera`: the camera lacks black_level, white_balance, color_matrix"),
    ],
)
def test_drifts_that_do_not_fit_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        r2l_jax.maite.Augmentation(**{"camera": CAMERA, **given})


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8), np.uint8), "images need 3 channels, got "),
        (np.zeros((8, 8, 3), np.int64), "images must be unsigned integers, or from 0 to 1, got int64 up to 0"),
        (np.full((8, 8, 3), 1.5), "images must be unsigned integers, or from 0 to 1, got float64 up to 1.5"),
    ],
)
def test_images_of_other_values_are_refused(picture, message):
    with pytest.raises(InputError, match=message):
        r2l_jax.maite.Augmentation(CAMERA).transform(picture)


@pytest.mark.shows("r2l_jax.maite.dataset(data, camera, groups)")
def test_a_maite_data_set_becomes_the_raw_images_of_its_camera(levels):
    data = r2l_jax.maite.dataset(levels, CAMERA, groups="scene")
    assert (data.task, data.classes, len(np.unique(data.groups))) == ("classification", ("dark", "bright"), 4)
    raws, labels = data.samples(np.arange(20))
    expected = 0.1 + 0.9 * (np.array([each.flat[0] for each in levels.pictures]) / 255) ** 2.2
    np.testing.assert_allclose(raws, np.broadcast_to(expected[:, None, None], raws.shape), rtol=1e-5)
    np.testing.assert_array_equal(labels, levels.labels)
    boxes = r2l_jax.maite.dataset(Blobs(), CAMERA)
    assert (boxes.task, boxes.classes) == ("detection", ("cell", "dust"))
    assert boxes[0][1][:, 4].tolist() == [-1, -1]
    column, row = Blobs()[3][1].boxes[0][:2]
    np.testing.assert_array_equal(boxes[3][1][0], [column, row, column + 6, row + 6, 0, 0])
    wide, target = Blobs(), Target(np.array([[20, 2, 60, 30]]), np.array([7]), np.ones(1))
    wide.data = [(np.full((3, 33, 48), 40, np.uint8), target, {"id": "wide"})]
    # Its last row is cropped, and the box ends at the border.
    assert r2l_jax.maite.dataset(wide, CAMERA)[0][1].tolist() == [[20, 2, 48, 30, 1, 0]]
    target.boxes[0, 3] = 33
    assert r2l_jax.maite.dataset(wide, CAMERA)[0][1].tolist() == [[20, 2, 48, 32, 1, 0]]


@pytest.mark.shows("r2l_jax.evaluate(camera)")
def test_a_maite_model_is_measured_as_maite_measures_it(levels, tmp_path):
    model, drift = Threshold(), "exposure=-0.5"
    found = r2l_jax.evaluate(
        model, levels, camera=CAMERA, against="sensor", sensor=[drift], output=tmp_path, progress=False
    )
    scores = found.tables["drops"].numbers("accuracy")
    for case, augmentation in (
        ("clean", r2l_jax.maite.Augmentation(CAMERA)),
        (drift, r2l_jax.maite.Augmentation(CAMERA, sensor=drift)),
    ):
        theirs, _, _ = evaluate(model=Threshold(), dataset=levels, metric=Accuracy(), augmentation=augmentation)
        assert scores[case] == pytest.approx(theirs["right"])
    assert 0.5 < scores[drift] < 1
    # As the data set's are.
    assert model.kinds == {(np.ndarray, np.dtype("uint8"), (3, 16, 14))}
    # The loss of probabilities is that of the logits.
    logits = np.array([(float(each.mean()) - 120) / 10 for each in levels.pictures])
    losses = np.log1p(np.exp(np.where(levels.labels, -logits, logits)))
    row = result.read(tmp_path / "clean").tables["models"].rows[0]
    assert row[3] == pytest.approx(losses.mean(), rel=0.02)


def test_logits_count_as_the_probabilities_that_they_have(levels, tmp_path):
    losses = []
    for number, probabilities in enumerate((True, False)):
        folder = tmp_path / str(number)
        given = {"against": "sensor", "sensor": ["exposure=-0.5"], "output": folder, "progress": False}
        r2l_jax.evaluate(Threshold(probabilities), levels, camera=CAMERA, **given)
        losses.append(result.read(folder / "clean").tables["models"].rows[0][3])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_maite_metric_is_a_score_with_the_intervals_of_ours(levels):
    """The metric counts right answers, as accuracy does, which needs no predictions."""
    data = r2l_jax.maite.dataset(levels, CAMERA, groups="scene")
    drift = {"against": "sensor", "sensor": ["exposure=-0.5"], "progress": False}
    ours = r2l_jax.evaluate(Threshold(), data, **drift)
    theirs = r2l_jax.evaluate(Threshold(), data, metric=(Accuracy(), "right"), **drift)
    assert "20 test samples of 4 groups" in str(theirs)
    assert ours.tables["drops"].rows == theirs.tables["drops"].rows


@pytest.mark.shows("r2l_jax.evaluate(metric)")
def test_maite_detectors_are_measured(tmp_path):
    drift = {"camera": CAMERA, "against": "sensor", "sensor": ["exposure=-3"], "progress": False}
    found = r2l_jax.evaluate(Finder(), Blobs(), **drift).tables["drops"].numbers("map")
    assert (found["clean"], found["exposure=-3"]) == (1.0, 0.0)
    counted = r2l_jax.evaluate(Finder(), Blobs(), metric=Missed(), **drift).tables["drops"].numbers("found")
    # Only the picture without objects has the right labels.
    assert counted["clean"] == 1.0
    assert counted["exposure=-3"] == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda levels: r2l_jax.evaluate(Threshold(), levels), "a MAITE data set needs `camera`"),
        (lambda _: r2l_jax.evaluate("run", camera="drone"), "`camera` is for MAITE data sets"),
        (lambda _: r2l_jax.evaluate("run", metric=Accuracy()), "`metric` is for a network without a run"),
        (lambda _: r2l_jax.maite.dataset(Sized(1, 4, 4), CAMERA), r"\(3, H, W\) of one size, got \(1, 4, 4\) for 0"),
        (lambda _: r2l_jax.maite.dataset(Sized(3, 4, 4), CAMERA), r"\(3, H, W\) of one size, got \(3, 6, 4\) for 1"),
        (
            lambda levels: r2l_jax.maite.dataset(levels, CAMERA, groups="slide"),
            "`groups=slide` must be in the metadata",
        ),
    ],
)
def test_what_evaluate_cannot_take_is_said(call, message, levels):
    with pytest.raises(InputError, match=message):
        call(levels)


class Sized(Levels):
    """Pictures of which each is two rows higher than the one before."""

    def __init__(self, *shape):
        super().__init__(4)
        self.shape = shape

    def __getitem__(self, index):
        channels, height, width = self.shape
        return np.zeros((channels, height + 2 * index, width), np.uint8), np.eye(2)[0], {"id": index}


def test_errors_of_a_maite_model_are_one_line(levels):
    class Failing(Threshold):
        def __call__(self, batch):
            raise RuntimeError("no memory\nat all")

    with pytest.raises(InputError, match=r"my/threshold 1 raised RuntimeError: no memory$"):
        r2l_jax.evaluate(Failing(), levels, camera=CAMERA, against="sensor", sensor=["exposure=-1"], progress=False)
