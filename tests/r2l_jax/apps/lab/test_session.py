import asyncio
import contextlib
import dataclasses
from types import SimpleNamespace
from unittest.mock import Mock

import custom_code
import numpy as np
import pytest

import isp
from r2l_jax.apps.lab import drawing, session, sources
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.lab.lab import LEARNED, Lab
from r2l_jax.apps.lab.presentation import classes, sliders
from r2l_jax.apps.lab.session import Session
from r2l_jax.apps.lab.sources import Source
from r2l_jax.cli.flags import replace
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.segmentation import Segmentation
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.training.run import Run


def refuse(camera):
    raise ValueError("it takes no camera")


def make_lab(model=None, tolerances=()):
    learned = {} if model is None else {LEARNED: model.named_pipeline}
    pipelines = learned | {
        "small": find_pipeline("bilinear.none.none"),
        "refusing": NamedPipeline("refusing", "refusing", refuse),
    }
    return Lab([], sources.cameras(model, None), pipelines, model, dict(tolerances))


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(session, "PACE", 0.01)


def source(name="frame", shape=(16, 24), seed=0, target=None, warnings=()):
    raw = np.random.default_rng(seed).uniform(0.1, 0.6, shape).astype(np.float32)
    return Source(name, lambda camera: (Frame(raw, isp.CAMERAS["drone"], target), list(warnings)))


class Recorded(Session):
    def __init__(self, lab):
        super().__init__(lab)
        self.shown, self.notices = [], []
        self.followers.append(self.record)

    def record(self, change, message):
        self.notices.append(message) if change == "notice" else self.shown.append(change)

    async def until(self, change):
        """Waits until the session has shown a change since the last call."""
        await self.until_true(lambda: change in self.shown)
        self.shown.clear()

    async def until_true(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    def expected(self):
        return list(self.view.engine.images(self.view.positions, self.view.raw).values())[-1]

    def position(self, name):
        return self.view.positions[list(self.view.engine.knobs).index(name)]


@contextlib.asynccontextmanager
async def opened(lab, first=None, change="picture"):
    """A session that has shown a source, up to a change."""
    found = Recorded(lab)
    working = asyncio.create_task(found.run())
    if first is not None:
        await found.open(first)
        await found.until(change)
    yield found
    working.cancel()


async def test_a_move_shows_its_picture_and_a_reset_the_default():
    async with opened(make_lab(), source()) as found:
        before = found.view.image
        assert found.view.stage == [*found.view.images][-1]
        found.move("white_balance.red", 0.5)
        await found.until("picture")
        np.testing.assert_array_equal(found.view.image, found.expected())
        assert (found.view.image != before).any()
        shown = drawing.draw(found.view, "now")
        found.show_stage("color_correct")
        assert drawing.draw(found.view, "now") != shown
        assert drawing.draw(found.view, "before") != drawing.draw(found.view, "now")
        assert drawing.draw(found.view, "../now") is None
        found.reset()
        await found.until_true(lambda: (found.view.image == before).all())


async def test_of_many_moves_the_last_one_counts_within_the_limits_and_most_are_not_rendered():
    async with opened(make_lab(), source()) as found:
        for step in range(200):
            found.move("gamma_correct", step / 400)
            if step % 20 == 0:
                await asyncio.sleep(0)
        await found.until_true(lambda: (found.view.image == found.expected()).all())
        assert found.shown.count("picture") < 20
        assert found.position("gamma_correct") == np.float32(199 / 400)
        found.move("gamma_correct", 1e9)
        assert found.position("gamma_correct") == 1
        found.move("gamma_correct", float("nan"))
        found.move("no_such_knob", 0.1)
        assert np.isfinite(found.view.positions).all()


async def test_the_model_predicts_and_searches(model):
    async with opened(make_lab(model), source(shape=(32, 32), target=np.asarray(2)), "judgement") as found:
        start = found.view.judgement
        rows = classes(found)
        assert [row["name"] for row in rows] == list(model.classes)
        assert [row["target"] for row in rows] == ["", "", "true", "", ""]
        found.search("worst")
        await found.until_true(lambda: found.searching.steps >= 5)
        found.stop()
        found.shown.clear()
        found.move("gamma_correct", float(found.position("gamma_correct")))
        await found.until("judgement")
        assert found.view.judgement.loss > start.loss
        found.choose_target(0)
        await found.until("judgement")
        judgement = found.view.judgement
        assert judgement.loss == pytest.approx(-np.log(judgement.probabilities[0]), rel=1e-3)
        assert classes(found)[0]["target"] == "assumed true"


@pytest.mark.parametrize(("classes_of", "shares"), [(("car",), [0.25]), (("sky", "car"), [0.75, 0.25])])
def test_a_mask_is_described_by_the_share_of_each_class(classes_of, shares):
    task = Segmentation.of(classes_of, NetworkSettings(), None)
    judgement = SimpleNamespace(found=np.repeat([0, 1], [12, 4]).reshape(4, 4))
    lab = SimpleNamespace(model=SimpleNamespace(task=task, classes=classes_of))
    described = classes(Mock(spec=Session, view=SimpleNamespace(judgement=judgement), lab=lab))
    assert [(row["name"], row["share"]) for row in described] == [*zip(classes_of, shares, strict=True)]
    assert described[-1]["text"] == "25.0 % of the picture"


@pytest.mark.parametrize("end", ["move", "reset", "open while it compiles"])
async def test_a_search_ends_with_the_next_action(model, end):
    async with opened(make_lab(model), source(shape=(32, 32), target=np.asarray(2)), "judgement") as found:
        found.search("worst")
        await found.until_true(lambda: found.searching.steps >= 2)
        if end == "move":
            found.move("gamma_correct", 0.25)
        elif end == "reset":
            found.reset()
        else:
            opening = asyncio.create_task(found.open(source("other", shape=(32, 32), seed=1)))
            await found.until_true(lambda: found.busy == "compiling")
            found.search("worst")
            await found.until_true(lambda: found.source.name == "other")
            # The former file's prediction does not count for this one.
            assert found.view.judgement is None
            await opening
        assert found.searching is None
        positions = found.view.positions
        found.shown.clear()
        await found.until("judgement")
        await asyncio.sleep(0.03)
        np.testing.assert_array_equal(found.view.positions, positions)
        assert positions.any() == (end == "move")


async def test_sliders_say_where_the_loss_rises_and_what_is_tolerated(model, tmp_path):
    lab = make_lab(model, {"gamma_correct": (1.5, 3.0)})
    async with opened(lab, source(shape=(32, 32)), "judgement") as found:
        # Without a known target, the model's prediction at the default counts.
        assert int(found.view.target) == found.view.judgement.probabilities.argmax()
        groups = sliders(found)
        assert [group["stage"] for group in groups][:2] == ["demosaic", "color_correct"]
        assert groups[1]["note"] == "debayer: 81 values, frozen"
        rows = {row["name"]: row for group in groups for row in group["knobs"]}
        assert list(rows) == list(found.view.engine.knobs)
        slope = found.view.judgement.slope / abs(found.view.judgement.slope).max()
        np.testing.assert_allclose([row["slope"] for row in rows.values()], slope, rtol=1e-6)
        gamma = rows["gamma_correct"]
        assert [found.view.engine.knobs["gamma_correct"].value(end) for end in gamma["band"]] == pytest.approx([1.5, 3])
        assert gamma["bandTitle"] == "tolerated if only this slider moves: 1.5 to 3"
        assert (gamma["text"], rows["black_level.green_2"]["label"]) == ("gamma 2.2", "black level, green 2")
        assert "band" not in rows["white_balance.red"]
        name = custom_code.write(tmp_path / "my_isp.py", found.pipeline_file())
        saved, shown = find_pipeline(name)(isp.CAMERAS["drone"]), found.view.engine.values(found.view.positions)
        np.testing.assert_array_equal(saved.white_balance[...], shown["white_balance"])
        # The tolerances belong to the learned pipeline.
        await found.choose_pipeline("small")
        assert not any("band" in row for group in sliders(found) for row in group["knobs"])


async def test_the_saved_pipeline_of_a_metered_run_renders_as_the_model_does(model, tmp_path):
    (fold,) = model.folds
    camera, auto = model.camera, ("exposure", "white_balance")
    network = fold.model.processed_by(isp.metered(model.pipeline, camera))
    metered = Run([dataclasses.replace(fold, model=network, config=replace(fold.config, auto=auto))])
    async with opened(make_lab(metered), source(shape=(32, 32))) as found:
        name = custom_code.write(tmp_path / "my_isp.py", found.pipeline_file())
        saved, raw = find_pipeline(name)(camera), np.asarray(found.view.raw)
    assert saved.stage_names[:2] == ("auto_white_balance", "auto_exposure")
    for light in (1.0, 0.5):
        # In linear light, since the tone curve is steep near black.
        np.testing.assert_allclose(saved(light * raw) ** 2.2, metered.render(light * raw) ** 2.2, atol=1e-5)


async def test_a_file_without_its_camera_is_opened_when_one_is_chosen(tmp_path):
    np.save(tmp_path / "mine.npy", np.full((16, 24), 0.5, np.float32))
    (tmp_path / "camera.json").write_text(isp.CAMERAS["microscopy"].to_json())
    (tmp_path / "bad.json").write_text("no camera")
    async with opened(make_lab(), source("good", warnings=["it is dim"])) as found:
        await found.open_file(tmp_path / "mine.npy")
        await found.open_file(tmp_path / "bad.json")
        dim, (lacks, bad) = found.notices[0], found.notices[1:]
        assert (dim, found.source.name, found.busy) == ("it is dim", "good", "")
        assert ("mine.npy: " in lacks, "no calibration values" in lacks, "bad.json: " in bad) == (True, True, True)
        await found.open_file(tmp_path / "camera.json")
        assert (found.source.name, found.camera_name) == ("mine.npy", "camera.json")
        assert found.view.frame.camera == isp.CAMERAS["microscopy"]
    async with opened(make_lab()) as empty:
        await empty.open_file(tmp_path / "camera.json")
        assert (empty.shown, empty.camera_name) == (["view"], "camera.json")
