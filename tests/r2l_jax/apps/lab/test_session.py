import asyncio
import contextlib
import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.apps.lab import frames, session, sources
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.lab.lab import LEARNED, Lab
from r2l_jax.apps.lab.presentation import JPEG, PNG, Gallery, classes, clipped, label, reading, sliders, verdict
from r2l_jax.apps.lab.session import Session
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.sets import synthetic
from r2l_jax.drift.results import Knob, Tolerances
from r2l_jax.drift.search.knobs import knobs_of
from r2l_jax.pipelines import NamedPipeline, find_pipeline

SMALL = "bilinear.none.none"


def refuse(camera):
    raise ValueError("it takes no camera")


def make_lab(model=None, tolerances=None):
    learned = {} if model is None else {LEARNED: model.named_pipeline}
    pipelines = learned | {"small": find_pipeline(SMALL), "refusing": NamedPipeline("refusing", "refusing", refuse)}
    return Lab([], sources.cameras(model, None), pipelines, model, tolerances)


@pytest.fixture(scope="module")
def plain():
    """The work of visitors without a model."""
    lab = make_lab()
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def judging(model):
    """The work of visitors with a model."""
    lab = make_lab(model)
    yield lab
    lab.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Shows each step of a search for a moment alone."""
    monkeypatch.setattr(session, "PACE", 0.01)


def source(name="frame", shape=(16, 24), seed=0, target=None):
    raw = np.random.default_rng(seed).uniform(0.1, 0.6, shape).astype(np.float32)
    return Source(name, lambda camera: (Frame(name, raw, isp.CAMERAS["drone"], target), []))


class Visitor(Session):
    """A session with a record of what it has shown."""

    def __init__(self, lab):
        self.shown, self.failures = [], []
        super().__init__(lab, self.shown.append, self.failures.append)

    async def until(self, change):
        """Waits until the session has shown a change since the last call, for at most a minute."""
        await self.until_true(lambda: change in self.shown)
        self.shown.clear()

    async def until_true(self, condition):
        """Waits until a condition holds, for at most a minute."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    def expected(self):
        """The image at the present positions."""
        return self.view.engine.picture(self.view.positions, self.view.raw).image

    def position(self, name):
        return self.view.positions[list(self.view.engine.knobs).index(name)]


@contextlib.asynccontextmanager
async def visiting(lab, opened=None, change="picture"):
    """A new visitor to whom a source has been shown, up to a change."""
    visitor = Visitor(lab)
    working = asyncio.create_task(visitor.run())
    if opened is not None:
        await visitor.open(opened)
        await visitor.until(change)
    yield visitor
    working.cancel()


async def test_a_move_shows_a_draft_while_held_and_a_picture_afterwards(plain):
    async with visiting(plain, source()) as visitor:
        before = visitor.view.picture.image
        visitor.move("white_balance.red", 0.5, held=True)
        await visitor.until("draft")
        assert visitor.view.draft is not None
        visitor.move("white_balance.red", 0.5)
        await visitor.until("picture")
        assert visitor.view.draft is None
        moved = visitor.view.picture.image
        np.testing.assert_array_equal(moved, visitor.expected())
        assert (moved != before).any()
        visitor.reset()
        await visitor.until("picture")
        np.testing.assert_array_equal(visitor.view.picture.image, before)
        # A slider that rests while it is held shows its picture.
        visitor.move("white_balance.red", 0.5, held=True)
        await visitor.until("picture")
        np.testing.assert_array_equal(visitor.view.picture.image, moved)


async def test_of_many_moves_the_last_one_counts_within_the_limits_and_most_are_not_rendered(plain):
    async with visiting(plain, source()) as visitor:
        for step in range(200):
            visitor.move("gamma_correct", step / 400, held=True)
            if step % 20 == 0:
                await asyncio.sleep(0)
        await visitor.until_true(lambda: "picture" in visitor.shown)
        assert visitor.shown.count("draft") < 20
        np.testing.assert_array_equal(visitor.view.picture.image, visitor.expected())
        assert visitor.position("gamma_correct") == np.float32(199 / 400)
        visitor.move("gamma_correct", 1e9)
        assert visitor.position("gamma_correct") == 1
        visitor.move("gamma_correct", float("nan"))
        visitor.move("no_such_knob", 0.1)
        assert np.isfinite(visitor.view.positions).all()


@pytest.mark.parametrize(
    ("name", "words"), [("refusing", "it takes no camera"), ("no.such.algorithm", "no pipeline is called")]
)
async def test_a_pipeline_that_cannot_be_rendered_leaves_the_choice_as_it_was(plain, name, words):
    async with visiting(plain, source()) as visitor:
        await visitor.choose_pipeline(name)
        (failure,) = visitor.failures
        assert words in failure
        assert visitor.choice.pipeline == "small"
        await visitor.choose_pipeline(SMALL)
        assert (visitor.choice.pipeline, visitor.busy) == (SMALL, "")


async def test_several_visitors_have_states_of_their_own(plain):
    async with visiting(plain, source(seed=1)) as one, visiting(plain, source(seed=2)) as other:
        one.move("gamma_correct", 0.5)
        await one.until("picture")
        assert not other.view.positions.any()
        for visitor in (one, other):
            np.testing.assert_array_equal(visitor.view.picture.image, visitor.expected())
        assert (one.view.picture.image != other.view.picture.image).any()


async def test_large_frames_are_shown_as_windows_and_reduced(plain, monkeypatch):
    monkeypatch.setattr(frames, "WINDOW", 16)
    monkeypatch.setattr(frames, "DRAFT_FROM", 100)
    async with visiting(plain, source(shape=(16, 24))) as visitor:
        assert visitor.view.picture.image.shape == (16, 16, 3)
        assert visitor.view.make_draft(visitor.view.positions).shape == (8, 8, 3)
        visitor.move("gamma_correct", 0.5)
        positions = visitor.view.positions
        await visitor.show_whole(True)
        assert visitor.view.picture.image.shape == (16, 24, 3)
        np.testing.assert_array_equal(visitor.view.positions, positions)
        await visitor.show_whole(False, (0.0, 1.0))
        assert visitor.view.place == (slice(0, 16), slice(8, 24))


async def test_the_model_judges_and_searches(judging):
    async with visiting(judging, source(shape=(32, 32), target=np.asarray(2)), "slope") as visitor:
        start = visitor.view.judgement
        rows = classes(visitor)
        assert [row["name"] for row in rows] == list(judging.model.classes)
        assert [row["target"] for row in rows] == ["", "", "true", "", ""]
        visitor.search("worst")
        await visitor.until_true(lambda: visitor.searching.steps >= 5)
        visitor.stop()
        visitor.shown.clear()
        visitor.move("gamma_correct", float(visitor.position("gamma_correct")))
        await visitor.until("slope")
        assert visitor.view.judgement.loss > start.loss
        visitor.choose_target(0)
        await visitor.until("slope")
        judgement = visitor.view.judgement
        assert judgement.loss == pytest.approx(-np.log(judgement.probabilities[0]), rel=1e-3)
        assert classes(visitor)[0]["target"] == "taken as true"


@pytest.mark.parametrize(
    ("target", "chosen", "words"),
    [(0, None, "true {0}: wrong"), (1, None, "true {1}: right"), (None, 0, "taken as true {0}: different")],
)
async def test_the_verdict_says_what_the_model_sees_and_whether_it_is_right(judging, target, chosen, words):
    known = None if target is None else np.asarray(target)
    async with visiting(judging, source(shape=(32, 32), target=known), "slope") as visitor:
        names = judging.model.classes
        if chosen is not None:
            visitor.choose_target(chosen)
        # Certainly the second class.
        probabilities = np.eye(len(names), dtype=np.float32)[1]
        visitor.view.judgement = visitor.view.judgement._replace(probabilities=probabilities)
        found = verdict(visitor)
        assert found.text == f"now {names[1]}, {words.format(*names)}"
        assert found.is_right == words.endswith("right")


async def test_the_verdict_on_a_mask_is_its_overlap(judging):
    async with visiting(judging, source(shape=(32, 32)), "slope") as visitor:
        mask = np.zeros((32, 32))
        mask[:16] = 1
        visitor.view.judgement = visitor.view.judgement._replace(probabilities=mask)
        visitor.view.target, visitor.view.target_known = np.roll(mask, 8, 0).astype(np.uint8), True
        assert verdict(visitor) == ("now IoU 0.333 with the true mask", None)


@pytest.mark.parametrize("end", ["move", "reset", "open", "open while it compiles"])
async def test_a_search_ends_with_the_visitor_s_next_action(judging, end):
    async with visiting(judging, source(shape=(32, 32), target=np.asarray(2)), "slope") as visitor:
        visitor.search("worst")
        await visitor.until_true(lambda: visitor.searching.steps >= 2)
        if end == "move":
            visitor.move("gamma_correct", 0.25)
        elif end == "reset":
            visitor.reset()
        else:
            opening = asyncio.create_task(visitor.open(source("other", shape=(64, 64), seed=1)))
            if end == "open while it compiles":
                while visitor.busy != "compiling":
                    await asyncio.sleep(0)
                visitor.search("worst")
            while visitor.choice.source.name != "other":
                await asyncio.sleep(0)
            # The former file's judgement does not count for this one.
            assert visitor.view.judgement is None
            await opening
        assert (visitor.searching, visitor.view.slope) == (None, None)
        positions = visitor.view.positions
        visitor.shown.clear()
        await visitor.until("slope")
        await asyncio.sleep(0.03)
        np.testing.assert_array_equal(visitor.view.positions, positions)
        assert positions.any() == (end == "move")


async def test_the_model_sees_windows_of_its_own_size_alone(judging):
    async with visiting(judging, source(shape=(64, 64)), "slope") as visitor:
        assert visitor.view.before.image.shape == (32, 32, 3)
        assert visitor.view.judged
        # Without a target of its own, the model's answer at the default counts.
        assert int(visitor.view.target) == visitor.view.judgement.probabilities.argmax()
        assert verdict(visitor).text
        await visitor.show_whole(True)
        assert not visitor.view.judged
        assert verdict(visitor).text == ""
        visitor.search("worst")
        assert visitor.searching is None


async def test_sliders_say_where_the_loss_rises_and_what_is_tolerated(judging, monkeypatch):
    ends = (1.5, (1.4, 1.6), False, 3.0, (2.9, 3.1), False)
    knob = Knob("gamma_correct", "exponent", "log", None, 2.2, *ends, [], high_failing=3.5)
    tolerances = Tolerances("accuracy", 0.9, 0.02, 8, "RGGB", {"gamma_correct": knob}, {}, None)
    monkeypatch.setattr(judging, "tolerances", tolerances)
    async with visiting(judging, source(shape=(32, 32)), "slope") as visitor:
        groups = sliders(visitor)
        assert [group["stage"] for group in groups][:2] == ["demosaic", "color_correct"]
        assert groups[1]["note"] == "debayer: 81 values, fixed"
        rows = {row["name"]: row for group in groups for row in group["knobs"]}
        assert list(rows) == list(visitor.view.engine.knobs)
        assert max(abs(row["slope"]) for row in rows.values()) == pytest.approx(1)
        knob = visitor.view.engine.knobs["gamma_correct"]
        assert [knob.value(end) for end in rows["gamma_correct"]["band"]] == pytest.approx([1.5, 3.0])
        words = "tolerated by itself: 1.5 to 3 (at most 2 points lost); failure is shown above 3.5"
        assert rows["gamma_correct"]["bandTitle"] == words
        assert "band" not in rows["white_balance.red"]
        # The tolerances belong to the learned pipeline.
        visitor.choice = dataclasses.replace(visitor.choice, pipeline="small")
        assert not any("band" in row for group in sliders(visitor) for row in group["knobs"])


def test_sliders_are_read_in_words():
    knobs = knobs_of(*facts_of(find_pipeline("parametrized")(isp.CAMERAS["drone"])))
    assert label(knobs["black_level"]) == "black level, all"
    assert label(knobs["black_level.green_2"]) == "black level, green 2"
    assert label(knobs["black_level.blue"]) == "black level, blue"
    assert label(knobs["white_balance.red"]) == "white balance, red"
    at = {name: knob.position for name, knob in knobs.items()}
    assert reading(knobs["black_level"], 0.0) == "unchanged"
    assert reading(knobs["black_level"], at["black_level"](0.01)) == "each level +0.01"
    assert reading(knobs["black_level"], at["black_level"](-0.01)) == "each level \N{MINUS SIGN}0.01"
    assert reading(knobs["white_balance"], 0.0) == "unchanged"
    assert reading(knobs["white_balance"], at["white_balance"](1.25)) == "each gain \N{MULTIPLICATION SIGN}1.25"
    assert reading(knobs["sharpening_filter"], 0.0) == "unchanged"
    assert reading(knobs["sharpening_filter"], -1.0) == "off"
    assert reading(knobs["sharpening_filter"], 0.5) == "strength \N{MULTIPLICATION SIGN}1.5"
    assert reading(knobs["gamma_correct"], 0.0) == "gamma 2.2"


def facts_of(pipeline):
    return pipeline.facts, {name: np.asarray(value) for name, value in pipeline.parameters().items()}


async def test_pictures_are_drawn_when_they_are_asked_for(plain):
    gallery = Gallery()
    async with visiting(plain) as visitor:
        token = gallery.add(visitor)
        assert gallery.draw(token, "now") is None
        await visitor.open(source())
        for name, kind in (("now", PNG), ("before", PNG), ("clipping", PNG), ("strip", JPEG)):
            assert gallery.draw(token, name)[1] == kind
        shown = gallery.draw(token, "now")
        visitor.show_stage("color_correct")
        assert gallery.draw(token, "now") != shown
        visitor.show_stage("gamma_correct")
        assert gallery.draw(token, "now") == shown
        assert gallery.draw(token, "../now") is None
        assert gallery.draw("guess", "now") is None
        gallery.remove(token)
        assert gallery.draw(token, "now") is None


async def test_saturated_sites_and_clipped_pixels_are_counted(plain):
    raw = np.full((16, 24), 0.3, np.float32)
    raw[:4, :6] = 1
    async with visiting(plain) as visitor:
        await visitor.open(Source("frame", lambda camera: (Frame("frame", raw, isp.CAMERAS["drone"]), [])))
        rows = {words: share for _, words, share in clipped(visitor)}
        assert rows["saturated sites of the sensor"] == "6.25 %"
        above = visitor.view.picture.above
        assert rows["pixels above white"] == f"{100 * above[3:-3, 3:-3].mean():.2f} %"
        # Beyond the bright corner and its seam, only the frame of the study's sharpening is above white.
        raw[:] = 0.3
        await visitor.open(Source("frame", lambda camera: (Frame("frame", raw, isp.CAMERAS["drone"]), [])))
        assert visitor.view.picture.above.any()
        assert {words: share for _, words, share in clipped(visitor)}["pixels above white"] == "0.00 %"


async def test_a_file_without_its_camera_is_kept_until_one_is_chosen(plain, tmp_path):
    np.save(tmp_path / "mine.npy", np.full((16, 24), 0.5, np.float32))
    waiting = sources.file_source("mine.npy", tmp_path / "mine.npy", None)
    async with visiting(plain, source("good")) as visitor:
        await visitor.open(waiting)
        assert (visitor.waiting, visitor.failures) == ("mine.npy is kept: it holds no calibration values", [])
        visitor.cameras["part"] = KnownCamera({"black_level": (0.0,) * 4})
        await visitor.choose_camera("part")
        assert visitor.waiting.endswith("values, and the chosen camera lacks white_balance, color_matrix")
        # Until then, the former one can be processed.
        assert (visitor.choice.source.name, visitor.busy) == ("good", "")
        visitor.shown.clear()
        visitor.move("gamma_correct", 0.1)
        await visitor.until("picture")
        await visitor.choose_camera("microscopy")
        assert (visitor.choice.source.name, visitor.waiting) == ("mine.npy", "")
        assert visitor.view.frame.camera == isp.CAMERAS["microscopy"]
        # Another source takes its place.
        visitor.camera_name = sources.OWN_CAMERA
        await visitor.open(waiting)
        await visitor.open(source("good"))
        assert visitor.waiting == ""


async def test_warnings_of_a_file_follow_its_picture(plain):
    shown = []
    raw = np.full((16, 24), 0.5, np.float32)
    async with visiting(plain) as visitor:
        visitor._failed = lambda message: shown.append((message, visitor.choice.source.name))
        await visitor.open(Source("dim", lambda camera: (Frame("dim", raw, isp.CAMERAS["drone"]), ["dim: it is dim"])))
        assert shown == [("dim: it is dim", "dim")]


def test_examples_are_one_cell_of_each_class():
    examples = sources.examples()
    assert sorted(example.name for example in examples) == [f"example: {name}" for name in sorted(synthetic.CLASSES)]
    frames_ = [example.read(KnownCamera())[0] for example in examples[:2]]
    assert all(frame.raw.shape == (256, 256) and frame.camera == synthetic.CAMERA for frame in frames_)
    assert all(0 <= frame.raw.min() < frame.raw.max() <= 1 for frame in frames_)
    assert (frames_[0].raw != frames_[1].raw).any()
