import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optimized
import pytest
from flax import nnx

import isp
from isp import cfa, pipeline

# Results of the published PyTorch pipeline (aiaudit-org/raw2logit) in float64: the image, every stage, every gradient.
# The cases are two cameras, and one of them with every parameter moved at random.
GOLDEN = np.load(pathlib.Path(__file__).with_name("parametrized.npz"))
CASES = ("drone", "microscopy", "drone_perturbed")
RAW = np.zeros((6, 8), np.float32)
STAGES = ("demosaic", "color_correct", "sharpening", "gaussian", "clipped", "gamma_correct")
SHAPES = {
    **{"black_level": (4,), "debayer": (3, 3, 3, 3), "white_balance": (3,), "colour_correction": (3, 3)},
    **{"sharpening_filter": (3, 3), "gaussian_blur": (5, 5), "gamma_correct": ()},
}


def golden(case, group):
    """Returns the arrays of one group of a case, by the last part of their names."""
    prefix = f"{case}/{group}."
    return {name.removeprefix(prefix): GOLDEN[name] for name in GOLDEN.files if name.startswith(prefix)}


def golden_pipeline(case):
    module = isp.parametrized(isp.CAMERAS[case.split("_")[0]])
    for name, value in golden(case, "param").items():
        setattr(module, name, nnx.Param(jnp.array(value)))
    return module


def drone():
    return isp.parametrized(isp.CAMERAS["drone"])


def relative_error(result, expected):
    return np.linalg.norm(np.asarray(result) - expected) / np.linalg.norm(expected)


def batch_norm(rgb):
    return (rgb - rgb.mean((0, 1, 2))) / jnp.sqrt(rgb.var((0, 1, 2)) + 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_stage_and_the_optimized_call_agree_with_the_reference(case):
    rgb, stages = golden_pipeline(case).trace(GOLDEN[f"{case}/raw"])
    assert tuple(stages) == STAGES
    expected = golden(case, "stage")
    expected["clipped"] = np.clip(expected["gaussian"], 1e-5, 1)
    for name, image in stages.items():
        np.testing.assert_allclose(image, expected[name], atol=1e-4 if name == "gamma_correct" else 1e-5, err_msg=name)
    for image in (rgb, optimized.apply(golden_pipeline(case), GOLDEN[f"{case}/raw"])):
        np.testing.assert_allclose(image, expected["gamma_correct"], atol=1e-4)
        np.testing.assert_allclose(batch_norm(image), GOLDEN[f"{case}/rgb"], atol=1e-3)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1)
def loss(graphdef, arguments, weight):
    params, raw, perturbations = arguments
    rgb, _ = nnx.merge(graphdef, params).trace(raw, perturbations)
    return (batch_norm(rgb) * weight).sum()


@pytest.mark.parametrize("case", CASES)
def test_every_gradient_agrees_with_the_reference(case):
    graphdef, params = nnx.split(golden_pipeline(case))
    raw, weight = jnp.array(GOLDEN[f"{case}/raw"]), GOLDEN[f"{case}/weight"]
    perturbations = {name: jnp.zeros((*raw.shape, 3)) for name in STAGES}
    value, (params_grad, raw_grad, stage_grads) = loss(graphdef, (params, raw, perturbations), weight)
    assert value == pytest.approx(GOLDEN[f"{case}/loss"], rel=1e-4)
    assert relative_error(raw_grad, GOLDEN[f"{case}/grad.raw"]) < 1e-4
    for name in SHAPES:
        if name != "gamma_correct":
            assert relative_error(params_grad[name][...], GOLDEN[f"{case}/grad.{name}"]) < 1e-4, name
    # The terms of this sum cancel, for the microscope to a 5,000th, so the rounding of each in float32 remains.
    gamma = float(params["gamma_correct"][...])
    light = np.asarray(nnx.merge(graphdef, params).trace(raw)[1]["clipped"], np.float64)
    slopes = -(light ** (1 / gamma)) * np.log(np.maximum(light, 1e-30)) / gamma**2
    terms = GOLDEN[f"{case}/stage_grad.gamma_correct"] * slopes
    assert terms.sum() == pytest.approx(GOLDEN[f"{case}/grad.gamma_correct"], abs=1e-7 * abs(terms).sum())
    # A sum of 4,608 terms rounds by up to sqrt(4608) * 2**-24 of their sizes.
    assert abs(params_grad["gamma_correct"][...] - terms.sum()) < 4e-6 * abs(terms).sum()
    for name in STAGES:
        assert relative_error(stage_grads[name], GOLDEN[f"{case}/stage_grad.{name}"]) < 1e-4, name


def test_derivatives_for_black_are_those_of_less_light_and_second_ones_are_central_differences():
    """Exactly: without filters and tone curve, the gradient is at most quadratic in each parameter."""
    module, rng = drone(), np.random.default_rng(0)
    for name in STAGES[2:]:
        module = module.without(name)
    raw, weights = jnp.float32(rng.uniform(0.2, 0.9, (2, 4, 6))), rng.normal(size=(2, 4, 6, 3))
    direction = jnp.array([1.0, -0.5, 2.0, 0.3])

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def slope(values):
        loss = jax.grad(lambda values, raw: (module.with_values(values)(raw) ** 2 * weights).sum(), (0, 1))
        of_values, of_raw = loss(values, raw)
        return direction @ of_values["black_level"], direction @ cfa.space_to_depth(of_raw).sum((0, 1, 2))

    values = module.parameters()
    (of_black, of_light), second = slope(values)
    np.testing.assert_allclose(of_black, -of_light, rtol=1e-4)
    for name, gradient in second.items():
        step = 0.1 * jnp.float32(rng.normal(size=gradient.shape))
        above, below = (slope(values | {name: values[name] + sign * step})[0][0] for sign in (1, -1))
        np.testing.assert_allclose((gradient * step).sum(), (above - below) / 2, rtol=1e-3, err_msg=name)


@pytest.mark.shows("isp.Camera(white_balance, color_matrix)")
@pytest.mark.parametrize("case", ["drone", "microscopy"])
def test_starts_at_the_parameters_of_the_camera_and_the_study(case):
    module = isp.parametrized(isp.CAMERAS[case])
    expected = golden(case, "param")
    assert {name: value.shape for name, value in module.parameters().items()} == SHAPES
    for name, value in module.parameters().items():
        # The published blur kernel is rounded to five digits.
        np.testing.assert_allclose(value, expected[name], atol=5e-6 if name == "gaussian_blur" else 1e-6, err_msg=name)


@pytest.mark.shows("isp.Camera(pattern)")
@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_every_pattern_is_processed_by_its_own_colors(pattern):
    """A mosaic of any pattern is a flipped RGGB mosaic, so it must be processed to the flipped picture."""
    axes = {"RGGB": (), "GRBG": (-1,), "GBRG": (-2,), "BGGR": (-2, -1)}[pattern]
    raw = GOLDEN["drone/raw"]
    level = np.array([0.01, 0.02, 0.03, 0.04]).reshape(2, 2)
    camera = isp.CAMERAS["drone"]

    def render(raw, level, pattern):
        return isp.parametrized(isp.Camera(level.ravel(), camera.white_balance, camera.color_matrix, pattern))(raw)

    expected = np.flip(render(raw, level, "RGGB"), [axis - 1 for axis in axes])
    rgb = render(np.flip(raw, axes), np.flip(level, axes), pattern)
    # Compared in linear light, because the tone curve is steep near black and sums run in the other direction: stencils
    # of 49 terms, whose sizes add up to less than 10, round by 10 * sqrt(49) * 2**-24.
    np.testing.assert_allclose(rgb**2.2, expected**2.2, atol=4e-6)


def test_compiles_once_per_shape_whatever_the_parameters():
    raw = GOLDEN["drone/raw"]
    drone()(raw)
    before = pipeline._run._cache_size()
    isp.parametrized(isp.CAMERAS["microscopy"])(2 * raw)
    assert pipeline._run._cache_size() == before


@pytest.mark.shows("isp.published.parametrized(additive_layer)")
def test_additive_layer_is_added_last():
    module = isp.parametrized(isp.CAMERAS["drone"], additive_layer=(24, 32))
    np.testing.assert_array_equal(module.additive_layer[...], np.zeros((24, 32, 3)))
    layer = np.random.default_rng(0).normal(size=(24, 32, 3)).astype(np.float32)
    rgb, stages = module.with_values({"additive_layer": layer}).trace(GOLDEN["drone/raw"])
    np.testing.assert_allclose(rgb, stages["gamma_correct"] + layer, atol=1e-6)
    assert module.declarations["additive_layer"].has_range


@pytest.mark.parametrize(
    ("parameter", "function"),
    [
        ("white_balance", isp.color.white_balance),
        ("colour_correction", isp.color.color_correct),
        ("debayer", isp.demosaic.interpolate),
    ],
)
def test_weights_are_named_after_the_colors_that_they_connect(parameter, function):
    images = jnp.broadcast_to(jnp.eye(3)[:, None, None, :], (3, 4, 4, 3))  # A red, a green and a blue image.
    colors, shape = ("red", "green", "blue"), SHAPES[parameter]
    for number, name in enumerate(drone().declarations[parameter].element_names(parameter, shape)):
        weights = np.zeros(shape, np.float32)
        weights.flat[number] = 1
        ((source, to),) = np.argwhere(function(images, jnp.asarray(weights))[:, 1, 1] > 0)
        expected = colors[to] if parameter == "white_balance" else f"{colors[to]}_from_{colors[source]}"
        assert name.split(".")[1] == expected


def double(image, factor=2.0):
    return factor * image


DOUBLE = isp.Stage("double", double, {"factor": isp.Parameter(2.0, scale="log")})
FIXED_SHARPENING = isp.Stage("sharpening", isp.sharpen.sharpening_filter)


def learned():
    """Builds a pipeline whose parameters have left their start."""
    module = drone()
    return module.with_values({name: 1.1 * value for name, value in module.parameters().items()})


def by_stages(module, raw):
    """Computes the image stage by stage, without fusing any."""
    image = jnp.asarray(raw)
    for stage in module.stages:
        image = stage.function(image, *(module.parameters()[name] for name in stage.parameters), **stage.options)
    return image


EDITS = {
    # A kernel that is no parameter does not fit the function that computes both filters together.
    "unfit": (lambda module: module.replaced("sharpening", FIXED_SHARPENING), STAGES),
    "inside": (lambda module: module.inserted(DOUBLE, after="sharpening"), (*STAGES[:3], "double", *STAGES[3:])),
    "before": (lambda module: module.inserted(DOUBLE, before="color_correct"), (STAGES[0], "double", *STAGES[1:])),
    "without": (lambda module: module.without("gaussian"), (*STAGES[:3], *STAGES[4:])),
    "first": (lambda module: module.inserted(DOUBLE, before="demosaic"), ("double", *STAGES)),
}


@pytest.mark.shows("isp.pipeline.Pipeline.inserted(after, before)")
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_pipeline_keeps_values_and_applies_its_stages(name):
    edit, names = EDITS[name]
    raw, module = GOLDEN["drone/raw"], learned()
    before = module.parameters()
    edited = edit(module)
    assert edited.stage_names == names
    assert module.stage_names == STAGES
    values = edited.parameters()
    for name in values.keys() & before.keys():
        np.testing.assert_array_equal(values[name], before[name])
    assert values.get("factor", 2.0) == 2.0
    # Fused stencils of 49 terms, whose sizes add up to less than 10, round by 10 * sqrt(49) * 2**-24.
    np.testing.assert_allclose(edited(raw) ** 2.2, by_stages(edited, raw) ** 2.2, rtol=5e-6, atol=4e-6)


@pytest.mark.shows("isp.Stage(parameters, options)")
def test_a_stage_gets_the_values_of_its_parameters_and_its_options():
    gain = isp.Parameter(3.0, scale="log")
    stage = isp.Stage("line", lambda rgb, gain=2.0, offset=0.0: gain * rgb + offset, {"gain": gain}, {"offset": 0.5})
    gray = isp.Stage("gray", lambda raw: jnp.stack([raw] * 3, -1))
    raw = GOLDEN["drone/raw"]
    expected = np.stack([3 * raw + 0.5] * 3, -1)
    np.testing.assert_allclose(isp.Pipeline([gray, stage])(raw), expected, rtol=1e-6)


@pytest.mark.shows("isp.pipeline.Pipeline.trace(perturbations)")
def test_perturbations_are_added_to_the_results_of_their_stages():
    raw, (first, last) = GOLDEN["drone/raw"], np.random.default_rng(0).normal(size=(2, 24, 32, 3))
    gray = isp.Stage("gray", lambda raw: jnp.stack([raw] * 3, -1))
    rgb, images = isp.Pipeline([gray, DOUBLE]).trace(raw, {"gray": jnp.float32(first), "double": jnp.float32(last)})
    np.testing.assert_allclose(images["gray"], raw[..., None] + first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rgb, 2 * (raw[..., None] + first) + last, rtol=1e-5, atol=1e-6)


def clips(*parameters):
    low = isp.Parameter(0.0)
    return isp.Pipeline([isp.Stage(f"clip{i}", jnp.clip, {name: low}) for i, name in enumerate(parameters)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: isp.Pipeline([DOUBLE, DOUBLE]), r"stages must have distinct names, got \['double', "),
        (lambda: clips("low", "low"), "stages 'clip0' and 'clip1' both have a parameter"),
        (lambda: clips("trace"), "a parameter of stage 'clip0' cannot be called 'trace': .* not an attribute"),
        (lambda: isp.Stage("clip", jnp.clip, options={"high": np.ones(3)}), "option 'high' of .* must be hashable"),
        (lambda: drone().without("gamma"), "the stage must be one of demosaic, .*, gamma_correct, got 'gamma'"),
        (lambda: drone().inserted(DOUBLE, after="a", before="b"), "exactly one of after and before must be given"),
        (lambda: drone().with_values({"gain": 1.0}), r"values must be for the parameters .*, got \['gain'\]"),
        # Three gains for each of three images would broadcast as a matrix.
        (lambda: drone().with_values({"white_balance": np.ones((3, 3))}), r"white_balance .* \(3,\), got \(3, 3\)"),
        (lambda: drone()(RAW[:5]), r"raw must have an even height and width, got shape \(5, 8\)"),
    ],
)
def test_refuses(make, message, unchecked):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("call", [lambda pipeline: pipeline(RAW), lambda pipeline: pipeline.trace(RAW)])
def test_an_error_names_the_stage_that_raised_it(call):
    def transposed(rgb):
        return rgb @ jnp.ones((4, 4))

    with pytest.raises(TypeError) as error:
        call(drone().inserted(isp.Stage("transposed", transposed), after="demosaic"))
    assert "in the stage transposed of the pipeline" in error.value.__notes__
