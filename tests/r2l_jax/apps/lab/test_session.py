import asyncio
import contextlib

import numpy as np
import pytest

import isp
from r2l_jax.apps.lab import frames, pipelines, sources
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.lab.lab import Lab
from r2l_jax.apps.lab.presentation import JPEG, PNG, Gallery, classes, clipped, sliders
from r2l_jax.apps.lab.session import Session
from r2l_jax.apps.lab.sources import Source
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.drift.results import Knob, Tolerances
from r2l_jax.runtime.errors import InputError


def source(name="frame", shape=(16, 24), seed=0, target=None):
    raw = np.random.default_rng(seed).uniform(0.1, 0.6, shape).astype(np.float32)
    return Source(name, lambda camera: (Frame(name, raw, isp.CAMERAS["drone"], target), []))


class Visitor:
    """A session with its loop, and a record of what it has shown."""

    def __init__(self, lab):
        self.shown, self.failed = [], []
        self.session = Session(lab, self.shown.append, self.failed.append)

    async def until(self, change):
        """Waits until the session has shown a change since the last call, for at most a minute."""
        async with asyncio.timeout(60):
            while change not in self.shown:
                await asyncio.sleep(0.005)
        self.shown.clear()


def make_lab(model=None, tolerances=None):
    return Lab([], sources.cameras(model, None), pipelines.pipelines(model, None), model, tolerances)


@contextlib.asynccontextmanager
async def visiting(lab=None):
    """A new visitor, and the visitor's session."""
    visitor = Visitor(lab or make_lab())
    working = asyncio.create_task(visitor.session.run())
    yield visitor, visitor.session
    working.cancel()


async def test_a_move_shows_a_draft_while_held_and_a_picture_afterwards():
    async with visiting() as (visitor, session):
        await session.open(source())
        await visitor.until("picture")
        before = session.picture.image
        session.move("white_balance.red", 0.5, held=True)
        await visitor.until("draft")
        assert session.draft is not None
        session.move("white_balance.red", 0.5)
        await visitor.until("picture")
        assert session.draft is None
        expected = session.view.engine.picture(session.positions, session.view.raw).image
        np.testing.assert_array_equal(session.picture.image, expected)
        assert (session.picture.image != before).any()
        session.reset()
        await visitor.until("picture")
        np.testing.assert_array_equal(session.picture.image, before)
        # A slider that rests while it is held shows its picture.
        session.move("white_balance.red", 0.5, held=True)
        await visitor.until("picture")
        np.testing.assert_array_equal(session.picture.image, expected)


async def test_of_many_moves_the_last_one_counts_within_the_limits_and_most_are_not_rendered():
    async with visiting() as (visitor, session):
        await session.open(source())
        await visitor.until("picture")
        for step in range(200):
            session.move("gamma_correct", step / 400, held=True)
            if step % 20 == 0:
                await asyncio.sleep(0)
        await visitor.until("picture")
        assert visitor.shown.count("draft") < 20
        expected = session.view.engine.picture(session.positions, session.view.raw).image
        np.testing.assert_array_equal(session.picture.image, expected)
        number = list(session.view.engine.knobs).index("gamma_correct")
        assert session.positions[number] == np.float32(199 / 400)
        session.move("gamma_correct", 1e9)
        assert session.positions[number] == session.view.engine.limits()[1][number]
        session.move("gamma_correct", float("nan"))
        session.move("no_such_knob", 0.1)
        assert np.isfinite(session.positions).all()


async def test_a_pipeline_that_cannot_be_rendered_leaves_the_choice_as_it_was():
    def mono(camera):
        return Frame("mono", np.full((8, 8), 0.5, np.float32), isp.Camera([0.1], pattern="MONO")), []

    async with visiting() as (visitor, session):
        await session.open(Source("mono", mono))
        await session.choose_pipeline(pipelines.CLASSICAL, ["menon2007", "none", "none"])
        assert len(visitor.failed) == 1
        assert "menon2007" in visitor.failed[0]
        assert session.pipeline_name == "parametrized"
        await session.choose_pipeline("full")
        assert session.pipeline_name == "full"


async def test_several_visitors_have_states_of_their_own():
    lab = make_lab()
    async with visiting(lab) as (visitor, one), visiting(lab) as (other_visitor, other):
        await asyncio.gather(one.open(source(seed=1)), other.open(source(seed=2)))
        # Not the picture of the move: one visitor may be shown theirs while the other's frame is still opened.
        await visitor.until("picture")
        await other_visitor.until("picture")
        one.move("gamma_correct", 0.5)
        await visitor.until("picture")
        assert not other.positions.any()
        for session in (one, other):
            expected = session.view.engine.picture(session.positions, session.view.raw).image
            np.testing.assert_array_equal(session.picture.image, expected)
        assert (one.picture.image != other.picture.image).any()


async def test_large_frames_are_shown_as_windows_and_reduced(monkeypatch):
    monkeypatch.setattr(frames, "WINDOW", 16)
    monkeypatch.setattr(frames, "_DRAFT_FROM", 100)
    async with visiting() as (_, session):
        await session.open(source(shape=(40, 60)))
        assert session.picture.image.shape == (16, 16, 3)
        assert session.view.draft(session.positions).shape == (8, 8, 3)
        session.move("gamma_correct", 0.5)
        positions = session.positions
        await session.show_whole(True)
        assert session.picture.image.shape == (40, 60, 3)
        np.testing.assert_array_equal(session.positions, positions)
        await session.show_whole(False, (0.0, 1.0))
        assert session.view.place == (slice(0, 16), slice(44, 60))


async def test_the_model_judges_and_searches(model):
    async with visiting(make_lab(model)) as (visitor, session):
        await session.open(source(shape=(32, 32), target=np.asarray(2)))
        await visitor.until("slope")
        start = session.judgement
        rows = classes(session)
        assert [row["name"] for row in rows] == list(model.classes)
        assert [row["target"] for row in rows].index("true") == 2
        session.search("worst")
        async with asyncio.timeout(60):
            while session.steps < 20:
                await asyncio.sleep(0.01)
        session.stop()
        await asyncio.sleep(0.1)
        visitor.shown.clear()
        session.move("gamma_correct", float(session.positions[list(session.view.engine.knobs).index("gamma_correct")]))
        await visitor.until("slope")
        assert session.judgement.loss > start.loss
        session.choose_target(0)
        await visitor.until("slope")
        assert session.judgement.loss == pytest.approx(-np.log(session.judgement.probabilities[0]), rel=1e-3)
        assert classes(session)[0]["target"] == "taken as true"


@pytest.mark.parametrize("end", ["move", "reset", "open", "open while it compiles"])
async def test_a_search_ends_with_what_the_visitor_does_next(model, end):
    async with visiting(make_lab(model)) as (visitor, session):
        await session.open(source(shape=(32, 32), target=np.asarray(2)))
        await visitor.until("slope")
        session.search("worst")
        async with asyncio.timeout(60):
            while session.steps < 2:
                await asyncio.sleep(0.01)
        if end == "move":
            session.move("gamma_correct", 0.25)
        elif end == "reset":
            session.reset()
        else:
            opening = asyncio.create_task(session.open(source("other", shape=(64, 64), seed=1)))
            while end == "open while it compiles" and session.busy != "compiling":
                await asyncio.sleep(0)
            if end == "open while it compiles":
                session.search("worst")
            while session.source.name != "other":
                await asyncio.sleep(0)
            # The judgement of the file before is none of this one.
            assert session.judgement is None
            await opening
        assert (session.searching, session.slope) == (None, None)
        steps, positions = session.steps, session.positions
        visitor.shown.clear()
        await visitor.until("slope")
        await asyncio.sleep(0.1)
        assert session.steps == steps
        np.testing.assert_array_equal(session.positions, positions)
        assert positions.any() == (end == "move")


async def test_the_model_sees_windows_of_its_own_size_alone(model):
    async with visiting(make_lab(model)) as (visitor, session):
        await session.open(source(shape=(64, 96)))
        await visitor.until("slope")
        assert session.view.before.image.shape == (32, 32, 3)
        assert session.view.judged
        # Without a target of its own, the model's answer at the default counts.
        assert int(session.target) == session.judgement.probabilities.argmax()
        await session.show_whole(True)
        assert not session.view.judged
        session.search("worst")
        assert session.searching is None


@pytest.mark.slow
async def test_sliders_say_where_the_loss_rises_and_what_is_tolerated(model):
    knob = Knob("gamma_correct", "exponent", "log", None, 2.2, 1.5, (1.4, 1.6), False, 3.0, (2.9, 3.1), False, [])
    tolerances = Tolerances("accuracy", 0.9, 0.02, 8, "RGGB", {"gamma_correct": knob}, {}, None)
    async with visiting(make_lab(model, tolerances)) as (visitor, session):
        await session.open(source(shape=(32, 32)))
        await visitor.until("slope")
        groups = sliders(session)
        assert groups[0]["stage"] == "demosaic"
        rows = {row["name"]: row for group in groups for row in group["knobs"]}
        assert list(rows) == list(session.view.engine.knobs)
        assert max(abs(row["slope"]) for row in rows.values()) == pytest.approx(1)
        knob = session.view.engine.knobs["gamma_correct"]
        assert [knob.value(end) for end in rows["gamma_correct"]["band"]] == pytest.approx([1.5, 3.0])
        assert "1.5 to 3" in rows["gamma_correct"]["bandTitle"]
        assert "band" not in rows["white_balance.red"]
        # The tolerances are those of the learned pipeline.
        await session.choose_pipeline("full")
        assert not any("band" in row for group in sliders(session) for row in group["knobs"])


async def test_pictures_are_drawn_when_they_are_asked_for():
    gallery = Gallery()
    async with visiting() as (visitor, session):
        token = gallery.add(session)
        assert gallery.draw(token, "now") is None
        await session.open(source())
        await visitor.until("picture")
        for name in ("now", "before", "clipping"):
            assert gallery.draw(token, name)[1] == PNG
        assert gallery.draw(token, "strip")[1] == JPEG
        shown = gallery.draw(token, "now")
        session.show_stage("color_correct")
        assert gallery.draw(token, "now") != shown
        session.show_stage("gamma_correct")
        assert gallery.draw(token, "now") == shown
        assert gallery.draw(token, "../now") is None
        assert gallery.draw("guess", "now") is None
        gallery.remove(token)
        assert gallery.draw(token, "now") is None


async def test_saturated_sites_and_clipped_pixels_are_counted():
    raw = np.full((8, 8), 0.3, np.float32)
    raw[:2, :2] = 1
    async with visiting() as (_, session):
        frame = Frame("frame", raw, isp.CAMERAS["drone"])
        await session.open(Source("frame", lambda camera: (frame, [])))
        rows = {words: share for _, words, share in clipped(session)}
        assert rows["saturated sites of the sensor"] == "6.25 %"
        assert rows["pixels above white"] == f"{100 * session.picture.above.mean():.2f} %"


async def test_a_file_without_its_camera_is_reported_and_the_former_one_stays_until_one_is_chosen():
    cameras = []

    def read(camera):
        cameras.append(camera)
        if camera.camera is None:
            raise InputError("mine.tiff: a camera must be given")
        return Frame("mine.tiff", np.full((8, 8), 0.5, np.float32), camera.camera), []

    async with visiting() as (visitor, session):
        await session.open(source("good"))
        await session.open(Source("mine.tiff", read))
        assert visitor.failed == ["mine.tiff: a camera must be given"]
        assert (session.source.name, session.busy) == ("good", "")
        visitor.shown.clear()
        session.move("gamma_correct", 0.1)
        await visitor.until("picture")
        # Opens the file anew that was asked for last.
        await session.choose_camera("microscopy")
        assert session.frame.camera == isp.CAMERAS["microscopy"]
        assert isinstance(cameras[0], KnownCamera)
