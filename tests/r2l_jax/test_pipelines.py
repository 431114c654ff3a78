import pathlib
import textwrap

import custom_code
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax.cli.flags import build
from r2l_jax.errors import InputError
from r2l_jax.model.settings import ProcessingSettings
from r2l_jax.pipelines import find_pipeline

CAMERA = isp.CAMERAS["drone"]
RAW = np.random.default_rng(0).random((8, 8), np.float32)

# Makes a new function for each camera, with values computed by JAX.
CLOSURE = """
import jax.numpy as jnp
import isp

def make(camera):
    gains = jnp.sqrt(jnp.array(camera.white_balance) ** 2)
    def scale(rgb, factor):
        return rgb * factor * gains
    return isp.static(camera).replaced("white_balance", isp.Stage("scale", scale, {"factor": isp.Parameter(1.0)}))
"""


@pytest.fixture
def write(tmp_path):
    """Writes a file of code, and returns the name of its pipeline `make`."""
    return lambda code, name="my_isp.py": custom_code.write(tmp_path / name, code)


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("parametrized", isp.parametrized(CAMERA)),
        ("full", isp.full(CAMERA)),
        ("menon2007.none.tv_bregman", isp.static(CAMERA, "menon2007", "none", "tv_bregman")),
    ],
)
def test_the_known_names(name, pipeline):
    found = find_pipeline(name)
    assert (found.title, found.source, found.identity) == (name, None, (name,))
    assert found(CAMERA).stages == pipeline.stages


STATIC = [
    ".".join({**{"demosaic": "bilinear", "sharpen": "none", "denoise": "none"}, step: algorithm}.values())
    for step, algorithms in isp.ALGORITHMS.items()
    for algorithm in algorithms
    if algorithm != "binned"
]
METERED = ["auto_white_balance", "auto_exposure"]


@pytest.mark.parametrize("half", [False, True])
def test_metering_comes_first_in_all_pipelines_but_behind_the_repair_of_defects(write, half):
    own = """
        import isp

        def make(camera):
            shaded = isp.static(camera).inserted(isp.stages.lens_shading(camera.pattern), before="demosaic")
            return shaded.inserted(isp.stages.defects(camera.pattern), before="demosaic")
    """
    for name in ("parametrized", "full", *STATIC, write(textwrap.dedent(own))):
        named = find_pipeline(name)
        named = named.half_sized() if half else named
        plain = list(named(CAMERA).stage_names)
        repairs = [stage for stage in plain if stage == "defects"]
        assert len(repairs) == (name == "full" or "my_isp" in name)
        expected = [*repairs, *METERED, *(stage for stage in plain if stage != "defects")]
        metered = named.metered(("exposure", "white_balance"))(CAMERA)
        assert list(metered.stage_names) == expected
        like = isp.metered(isp.parametrized(CAMERA), CAMERA).with_values({"exposure_target": 0.3})
        other = named.metered_as(like)(CAMERA)
        assert list(other.stage_names) == expected
        assert float(other.exposure_target[...]) == pytest.approx(0.3)


def test_a_pipeline_at_half_size_is_another_one():
    half = find_pipeline("parametrized").half_sized()
    assert (half.title, half.identity) == ("parametrized.half_size", ("parametrized", "half size"))
    assert half.half_sized().title == half.title
    assert half(CAMERA)(RAW).shape == (4, 4, 3)
    # Static pipelines that differ in demosaicing are one.
    first, second = (
        find_pipeline(f"{name}.none.gaussian_denoising").half_sized() for name in ("bilinear", "menon2007")
    )
    assert first == second
    assert first.name == "binned.none.gaussian_denoising"
    assert first(CAMERA).stages == isp.static(CAMERA, "binned", "none", "gaussian_denoising").stages


@pytest.mark.shows("train --half_size --pipeline")
def test_the_settings_name_the_pipeline_at_half_size():
    for given in ({"processing_mode": "static"}, {"pipeline": "full"}):
        for half in (False, True):
            found = build(ProcessingSettings, half_size=half, **given).named_pipeline(CAMERA)
            assert found(RAW).shape == ((4, 4, 3) if half else (8, 8, 3))
            assert ("defects" in found.stage_names) == ("pipeline" in given)


def test_the_pipeline_of_a_file_does_not_depend_on_its_path(write, tmp_path):
    name = write(CLOSURE)
    (tmp_path / "elsewhere").mkdir()
    here, there = find_pipeline(name), find_pipeline(write(CLOSURE, "elsewhere/other.py"))
    assert here == there
    assert (here.title, there.title) == ("my_isp.make", "other.make")
    assert find_pipeline(write(CLOSURE + "\n")) != there
    assert pathlib.Path(here.source.file) == (tmp_path / "my_isp.py").resolve()


def test_the_pipeline_of_a_file_is_made_once_per_camera_and_holds_no_tracers(write):
    found = find_pipeline(write(CLOSURE))

    @jax.jit
    def traced(raw):
        return found(CAMERA)(raw)

    expected = isp.static(CAMERA)(RAW)
    # In linear light, since the tone curve is steep near black.
    np.testing.assert_allclose(traced(RAW) ** 2.2, expected**2.2, atol=1e-5)
    np.testing.assert_allclose(found(CAMERA)(RAW) ** 2.2, expected**2.2, atol=1e-5)
    assert found(CAMERA).stages == find_pipeline(found.name)(CAMERA).stages
    assert found(CAMERA).stages != found(isp.CAMERAS["microscopy"]).stages
    with jax.checking_leaks():
        jax.jit(lambda raw: find_pipeline(write(CLOSURE + "#"))(CAMERA)(raw))(jnp.array(RAW))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bilinear.none", "`pipeline`: no pipeline is called 'bilinear.none'; the pipelines are par.*:<function>"),
        ("my_isp.py", "`pipeline` must be <file>.py:<function>, a function that makes the pipeline, got my_isp.py"),
        ("nowhere.py:make", "`pipeline=nowhere.py:make`: nowhere.py: No such file or directory"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        find_pipeline(name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("make = 1", "`pipeline={name}`: {file} has no function 'make' that makes a pipeline"),
        ("\n1 / 0", "`pipeline={name}` cannot be run: ZeroDivisionError: division by zero (line 2)"),
        ("def make(camera) return", "`pipeline={name}` cannot be run: SyntaxError: expected ':' (line 1)"),
        ("def make(camera):\n    raise KeyError('gain')", "{name} raised KeyError: 'gain' (line 2)"),
        ("def make(camera):\n    exit('no')", "{name} raised SystemExit: no (line 2)"),
        ("def make(camera):\n    return 1", "{name} must return an isp.Pipeline, got int"),
        (
            "import isp\ndef make(camera):\n    return isp.Pipeline([isp.Stage('a', abs, {'all': isp.Parameter(1.)})])",
            "{name} has a parameter called 'all', which is a reserved name: rename it",
        ),
    ],
)
def test_the_error_of_a_file_that_makes_no_pipeline_is_one_line(write, code, message):
    name = write(code)
    with pytest.raises(InputError) as error:
        find_pipeline(name)(CAMERA)
    assert str(error.value) == message.format(name=name, file=name.removesuffix(":make"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("lambda image: image[:1]", r"must make floating-point images of shape \(1, 8, 8, 3\) .* got float32 of"),
        ("lambda image: image + undefined", r"cannot process a raw image of 8x8: NameError: .* \(line 3\)"),
    ],
)
def test_the_error_of_a_pipeline_that_makes_no_images_is_one_line(write, stage, message, unchecked):
    found = find_pipeline(write(f"import isp\ndef make(camera):\n    return isp.Pipeline([isp.Stage('a', {stage})])"))
    with pytest.raises(InputError, match=message) as error:
        found.check(CAMERA, 8, 8)
    assert "\n" not in str(error.value)
