import jax
import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.engine import Engine
from r2l_jax.drift.search.knobs import turned
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import load

CAMERA = isp.CAMERAS["drone"]


@pytest.fixture(scope="module")
def raw():
    return np.random.default_rng(0).random((16, 24), np.float32)


@pytest.fixture(scope="module")
def judging(model):
    return Engine(model.pipeline, model)


@pytest.fixture(scope="module")
def sample(one_epoch):
    (fold,) = load(str(one_epoch.run_dir))
    raw, target = fold.dataset[int(fold.split.valid[0])]
    return raw, np.asarray(target)


def some_positions(engine):
    return np.random.default_rng(0).uniform(*engine.limits).astype(np.float32)


@pytest.mark.parametrize("make", [isp.parametrized, pytest.param(isp.full, marks=pytest.mark.slow)])
def test_images_are_those_of_the_pipeline_with_the_knobs_turned(make, raw):
    pipeline = make(CAMERA)
    engine = Engine(pipeline)
    positions = some_positions(engine)
    declarations, default = (
        pipeline.declarations,
        {name: np.asarray(value) for name, value in pipeline.parameters().items()},
    )
    values = turned(declarations, default, zip(engine.knobs.values(), positions, strict=True))
    expected, stages = pipeline.with_values(values).trace(raw)
    images = engine.images(positions, raw)
    assert list(images) == list(stages)
    *_, last = images.values()
    # Rounding to 8 bits may fall to either side.
    np.testing.assert_allclose(last.astype(int), quantized(np.asarray(expected), np.uint8), atol=1)
    for name, value in engine.values(positions).items():
        np.testing.assert_array_equal(value, values[name])


def test_probabilities_are_those_of_the_model(judging, model, sample):
    raw, target = sample
    judgement = judging.judge(judging.start, raw, target)
    np.testing.assert_allclose(judgement.probabilities, model.predict(raw), atol=1e-5)
    assert judgement.loss == pytest.approx(-np.log(judgement.probabilities[target]), rel=1e-4)
    assert judging.target(raw) == model.predict(raw).argmax()


def test_the_slope_is_that_of_the_loss(judging, sample):
    raw, target = sample
    slope = judging.judge(judging.start, raw, target).slope
    for name in ("gamma_correct", "white_balance.red", "white_balance"):
        number, step = list(judging.knobs).index(name), 0.02
        ends = [judging.start + side * step * np.eye(len(slope), dtype=np.float32)[number] for side in (1, -1)]
        above, below = (judging.judge(end.astype(np.float32), raw, target).loss for end in ends)
        assert slope[number] == pytest.approx((above - below) / (2 * step), rel=0.05, abs=1e-4)


@pytest.mark.parametrize(("direction", "sign"), [("worst", 1), ("best", -1)])
def test_a_search_moves_each_knob_along_its_slope_as_far_as_it_may(judging, sample, direction, sign):
    near = np.clip(judging.start + 0.99, *judging.limits)
    judgement = judging.judge(near, *sample, judging.search(direction))
    # The first step of Adam has the same length for all slopes.
    step = 0.02 * judgement.slope / (abs(judgement.slope) + 1e-8)
    np.testing.assert_allclose(judgement.next, np.clip(near + sign * step, *judging.limits), atol=1e-5)
    assert judgement.search.steps == 1


def test_nothing_is_compiled_while_sliders_move(judging, model, sample, caplog):
    raw, target = sample

    def play(positions, engine):
        engine.images(positions, raw)
        engine.judge(positions, raw, target)

    def compiled():
        return [record.message for record in caplog.records if record.message.startswith("Compiling")]

    play(judging.start, judging)
    with jax.log_compiles():
        play(some_positions(judging), judging)
        # Another file, for whose camera the same pipeline starts at other values.
        play(judging.start, Engine(judging.pipeline.with_values({"gamma_correct": 1.8}), model))
        assert compiled() == []
        judging.images(judging.start, raw[:8, :8])
        assert compiled() != []
