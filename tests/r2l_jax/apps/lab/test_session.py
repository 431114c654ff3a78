import asyncio
import contextlib
import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.apps.lab import frames, session, sources
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.lab.lab import LEARNED, Lab
from r2l_jax.apps.lab.presentation import JPEG, PNG, Gallery, classes, clipped, sliders
from r2l_jax.apps.lab.session import Session
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.drift.results import Knob, Tolerances
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.errors import InputError

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
        await visitor.show_whole(True)
        assert not visitor.view.judged
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
        assert rows["pixels above white"] == f"{100 * visitor.view.picture.above.mean():.2f} %"


async def test_a_file_without_its_camera_is_reported_and_the_former_one_stays_until_one_is_chosen(plain):
    cameras = []

    def read(camera):
        cameras.append(camera)
        if camera.camera is None:
            raise InputError("mine.tiff: a camera must be given")
        return Frame("mine.tiff", np.full((16, 24), 0.5, np.float32), camera.camera), []

    async with visiting(plain, source("good")) as visitor:
        await visitor.open(Source("mine.tiff", read))
        assert visitor.failures == ["mine.tiff: a camera must be given"]
        assert (visitor.choice.source.name, visitor.busy) == ("good", "")
        visitor.shown.clear()
        visitor.move("gamma_correct", 0.1)
        await visitor.until("picture")
        # Opens the file anew that was asked for last.
        await visitor.choose_camera("microscopy")
        assert visitor.view.frame.camera == isp.CAMERAS["microscopy"]
        assert isinstance(cameras[0], KnownCamera)
