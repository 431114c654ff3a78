"""docs/tutorial_onnx.md, as a user follows it: the stage goes through every program by its name alone."""

import custom_code
import numpy as np
import pytest
from pages import custom_stage
from small_runs import model

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.errors import InputError
from r2l_jax.pipelines import find_pipeline
from r2l_jax.training import train

# Every test trains or analyzes a run with the stage.
pytestmark = pytest.mark.slow

CODE = custom_stage()


@pytest.fixture(scope="module")
def my_isp(tmp_path_factory):
    return custom_code.write(tmp_path_factory.mktemp("own") / "my_isp.py", CODE)


def test_the_example_is_short_and_does_what_it_says(my_isp):
    assert len(CODE.splitlines()) <= 25
    camera = isp.CAMERAS["drone"]
    pipeline, plain = find_pipeline(my_isp)(camera), isp.parametrized(camera)
    raw = np.random.default_rng(0).random((16, 16), np.float32)
    np.testing.assert_allclose(pipeline(raw), plain(raw), atol=1e-5)  # a strength of 0 changes nothing
    _, stages = pipeline.with_values({"strength": 0.5}).trace(raw)
    gains = np.asarray(stages["shading"] / stages["color_correct"])
    np.testing.assert_allclose(gains[[0, 0, -1, -1], [0, -1, 0, -1]], 1.5, rtol=1e-5)
    assert gains.min() == pytest.approx(1, abs=0.01)


def test_a_parameter_without_a_range_trains_and_is_refused_where_it_needs_one(base, tmp_path):
    name = custom_code.write(tmp_path / "my_isp.py", CODE.replace("width=0.5, ", ""))
    config = replace(base, run_name="no_range", pipeline=name, epochs=1, save_locally=True)
    train.run(config)
    assert model(config)["processor.strength"] != 0
    with pytest.raises(InputError, match=r"^parameter strength needs a natural range: declare it as"):
        forensics.run(ForensicsConfig(run=str(config.run_dir), output=str(tmp_path), code=(name,)))
