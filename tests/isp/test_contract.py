"""The contract of every public function that processes batches of mosaics or images."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_names import public_names

import isp

SHAPES = {"mosaic": (8, 10), "image": (8, 10, 3), "plane": (8, 10), "planes": (8, 10, 3), "phases": (4, 5, 4)}
MOSAIC, IMAGE = "mosaic", "image"
GAINS = np.float32([1.0, 2.0, 1.5])
MATRIX = np.float32([[1.5, -0.3, -0.2], [-0.2, 1.7, -0.5], [0.1, -0.3, 1.3]])
KERNEL = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
DRONE = isp.CAMERAS["drone"]
BLACK = (0.1, 0.0, 0.05, 0.02)
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def number(value):
    return np.array(value, np.float32)


# Amounts of the functions of `isp.sensor_drift`: those that draw noise for each mosaic or round, and the others.
NOISY_DRIFTS = {
    **{"read_noise": 3, "row_noise": 50, "column_noise": 50, "photon_noise": 5, "vignetting": 0.5, "lamp_color": 40},
    **{
        "flicker": 10,
        "defocus": 1.2,
        "overexposure": 0.5,
        "underexposure": 0.5,
        "color_balance": 0.3,
        "motion": 3,
        "bits": 4,
    },
}
SENSOR_DRIFTS = NOISY_DRIFTS | {
    **{"hot_sites": 1e5, "dead_sites": 1e5, "black_level": 30, "chromatic_aberration": 0.7},
    "pattern_shift": 50,
}

# By the names of the functions: one input, and arguments. NumPy arrays among them have gradients.
EXAMPLES = {
    "auto_exposure": (
        MOSAIC,
        {"target": number(0.3), "power": number(2.5), "share": number(0.4), "black_level": BLACK},
    ),
    "auto_white_balance": (
        MOSAIC,
        {"neutral": GAINS, "power": number(2.5), "share": number(0.4), "black_level": BLACK},
    ),
    "balance_mosaic": (MOSAIC, {"pattern": "GRBG", "gains": GAINS, "clip": True}),
    "bilateral": (IMAGE, {"sigma_spatial": number(0.9), "sigma_color": number(0.2), "size": 3, "centered": True}),
    "bilateral as published": (IMAGE, {"sigma_spatial": number(0.9), "size": 3}),
    "bilinear": (MOSAIC, {"pattern": "GRBG"}),
    "binned": (MOSAIC, {"pattern": "GRBG"}),
    "binned of X-Trans": (MOSAIC, {"pattern": XTRANS}),
    "chroma_denoising": (IMAGE, {"sigma": number(0.7), "size": 5}),
    "color_correct": (IMAGE, {"matrix": MATRIX}),
    "contrast": (IMAGE, {"amount": number(1.2), "pivot": number(0.4)}),
    "correct": (IMAGE, {"coefficients": 0.3 * MATRIX}),
    "correct of a mosaic": (MOSAIC, {"pattern": "GBRG", "coefficients": 0.3 * MATRIX}),
    "curve": (IMAGE, {"rises": np.float32([0.5, -1.0, 0.3, 2.0, 0.0])}),
    "defects": (MOSAIC, {"threshold": 0.2, "pattern": "GRBG"}),
    "defects with a soft threshold": (MOSAIC, {"threshold": number(0.04), "softness": 0.3}),
    "defects that are lone": (MOSAIC, {"threshold": number(0.04), "softness": 0.3, "lone": True}),
    "depth_to_space": ("phases", {}),
    "filter_luma": (IMAGE, {"kernel": KERNEL}),
    "expose": (IMAGE, {"key": jax.random.key(0), "camera": DRONE}),
    "expose_again": (MOSAIC, {"key": jax.random.key(0), "camera": DRONE, "light": number(0.5)}),
    "expose_sites": (MOSAIC, {"key": jax.random.key(0), "camera": DRONE}),
    "from_light": (MOSAIC, {"camera": DRONE}),
    "fft_denoising": (IMAGE, {}),
    "fft_denoising with a soft cut": (IMAGE, {"keep_fraction": number(0.23), "softness": number(1.5)}),
    "fill": ("planes", {"weights": np.abs(KERNEL[:3, :3]) * np.ones((3, 1, 1), np.float32), "pattern": "GRBG"}),
    "gamma_correct": (IMAGE, {"gamma": number(2.2)}),
    "gaussian_denoising": (IMAGE, {"sigma": number(0.7), "size": 5}),
    "gaussian_filter": ("plane", {"sigma": number(0.7), "size": 5}),
    "highlights": (IMAGE, {"gains": 0.5 * GAINS}),
    "highlights desaturated": (IMAGE, {"gains": 0.5 * GAINS, "mode": "desaturate"}),
    "hsv_to_rgb": (IMAGE, {}),
    "interpolate": ("planes", {"kernel": np.arange(81, dtype=np.float32).reshape(3, 3, 3, 3) / 81}),
    "levels": (MOSAIC, {"power": number(2.5), "black_level": BLACK}),
    "local_tone_map": (IMAGE, {"strength": number(0.4), "detail": number(1.3), "size": 3}),
    "luma": (IMAGE, {}),
    "malvar2004": (MOSAIC, {"pattern": "GRBG"}),
    "median_denoising": (IMAGE, {}),
    "median_denoising of 5x5": (IMAGE, {"size": 5}),
    "menon2007": (MOSAIC, {"pattern": "GRBG"}),
    "menon2007 unrefined": (MOSAIC, {"pattern": "GRBG", "refine": False}),
    "mosaic": (IMAGE, {"pattern": "GRBG"}),
    "nlm_denoising": (IMAGE, {"strength": number(0.9), "patch_size": 3, "patch_distance": 1}),
    "nlm_denoising centered": (
        IMAGE,
        {"strength": number(0.3), "patch_size": 3, "patch_distance": 1, "centered": True},
    ),
    "normalized": (MOSAIC, {"weights": isp.demosaic.normalized_kernel(XTRANS), "pattern": XTRANS}),
    "replace_luma": (IMAGE, {"function": jnp.sin}),
    "rgb_to_hsv": (IMAGE, {}),
    "rgb_to_yuv": (IMAGE, {}),
    "saturation": (IMAGE, {"amount": number(1.3)}),
    "sharpening_filter": (IMAGE, {"kernel": KERNEL[:3, :3]}),
    "site_light": (MOSAIC, {"camera": DRONE}),
    "space_to_depth": (MOSAIC, {}),
    "split_luma": (IMAGE, {}),
    "spread": (MOSAIC, {"pattern": XTRANS}),
    "srgb": (IMAGE, {}),
    "srgb_to_lab": (IMAGE, {}),
    "subtract_black_level": (MOSAIC, {"black_level": np.float32([0.1, 0.2, 0.3, 0.5]), "rescale": True}),
    "to_camera": (IMAGE, {"camera": DRONE}),
    "tv_bregman": (IMAGE, {"weight": number(5.0), "max_iterations": 10}),
    "tv_bregman anisotropic": (IMAGE, {"weight": number(5.0), "max_iterations": 10, "isotropic": False}),
    "tv_chambolle": (IMAGE, {"weight": number(0.05)}),
    "unprocess": (IMAGE, {"camera": DRONE, "gamma": number(2.2)}),
    "unsharp_masking": (IMAGE, {"radius": number(0.8), "amount": number(1.3), "size": 5}),
    "unsharp_masking_vertical": (IMAGE, {"radius": number(0.8), "amount": number(1.3), "size": 5}),
    "white_balance": (IMAGE, {"gains": GAINS}),
    "yuv_to_rgb": (IMAGE, {}),
    **{
        name: (MOSAIC, {"key": jax.random.key(0), "camera": DRONE, "amount": number(amount)})
        for name, amount in SENSOR_DRIFTS.items()
    },
}


def processing_functions():
    """Finds the functions whose first argument and result have any number of batch axes."""

    def batched(annotation):
        return re.search(r"\*batch|'\.\.\.'", str(annotation)) is not None

    for name, value in public_names().items():
        if not inspect.isclass(value) and name.count(".") == 2:
            signature = inspect.signature(value)
            first = next(iter(signature.parameters.values()), None)
            if first is not None and batched(first.annotation) and batched(signature.return_annotation):
                yield name.rpartition(".")[2], value


OF_TWO_BATCHES, WITH_A_NUMBER = {"ciede2000", "with_luma"}, {"smoothed"}
FUNCTIONS = {name: function for name, function in processing_functions() if name not in OF_TWO_BATCHES | WITH_A_NUMBER}
# They draw counts of photons or round, but differentiate the mean.
STRAIGHT_THROUGH = {"expose", "expose_again", "expose_sites", *NOISY_DRIFTS}


@functools.cache
def example(name):
    """Returns a function of an input and traced arguments, the traced arguments, and a batch of 2x2 inputs."""
    kind, arguments = EXAMPLES[name]
    traced = {key: jnp.asarray(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    static = {key: value for key, value in arguments.items() if key not in traced}
    function = FUNCTIONS[name.split(" ")[0]]
    # The images differ in spread, so that settings derived from an image differ.
    shape = SHAPES[kind]
    spread = np.float32([[0.3, 0.6], [1, 1.5]]).reshape(2, 2, *[1] * len(shape))
    inputs = jnp.asarray(spread * np.random.default_rng(0).uniform(0.02, 1, (2, 2, *shape)).astype(np.float32))
    return lambda image, traced: function(image, **traced, **static), traced, inputs


def test_every_function_has_an_example():
    assert {name.split(" ")[0] for name in EXAMPLES} == FUNCTIONS.keys()


@functools.cache
def results_and_gradients(name):
    """Compiles a function's batched results, in float64, and the gradients of their weighted sum."""
    function, _, _ = example(name)

    def loss(images, traced):
        results = jax.vmap(function, (0, None))(images, traced)
        leaves = jax.tree.leaves(results)
        assert {leaf.dtype for leaf in leaves} == {np.dtype("float64")}
        rng = np.random.default_rng(3)
        return sum((rng.normal(size=leaf.shape) * leaf).sum() for leaf in leaves), leaves

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def in_float64(name):
    _, traced, inputs = example(name)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (inputs, traced))


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - STRAIGHT_THROUGH))  # Each input needs its part of the noise.
def test_vmap_and_batch_axes_equal_one_by_one(name):
    with jax.enable_x64(True):
        images, traced = in_float64(name)
        (_, together), _ = results_and_gradients(name)(images, traced)
        for place in np.ndindex(2, 2):
            alone = np.broadcast_to(images[place], images.shape)
            (_, results), _ = results_and_gradients(name)(alone, traced)
            for found, expected in zip(together, results, strict=True):
                np.testing.assert_allclose(found[place], expected[0, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients_agree_with_finite_differences_and_are_finite_everywhere(name):
    with jax.enable_x64(True):
        images, traced = start = in_float64(name)
        constant = np.array([[0.0, 0.4], [1.0, -0.5]]).reshape(2, 2, *[1] * (images.ndim - 2))
        with_an_edge = np.where(images < images.mean(), 0.2, 0.9)
        for contents in (np.broadcast_to(constant, images.shape), with_an_edge):
            _, gradients = results_and_gradients(name)(contents, traced)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        if name in STRAIGHT_THROUGH:
            return
        leaves, tree = jax.tree.flatten(start)
        gradients = jax.tree.leaves(results_and_gradients(name)(*start)[1])
        rng = np.random.default_rng(4)
        for part, leaf in enumerate(leaves):
            step = 1e-6 * rng.normal(size=leaf.shape)
            ends = ([*leaves[:part], end, *leaves[part + 1 :]] for end in (leaf + step, leaf - step))
            ((above, _), _), ((below, _), _) = (results_and_gradients(name)(*tree.unflatten(end)) for end in ends)
            np.testing.assert_allclose((gradients[part] * step).sum(), (above - below) / 2, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_batch_stays_empty_and_float16_stays_float16(name):
    function, traced, inputs = example(name)
    empty, traced = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), (inputs[:0], traced))
    for result in jax.tree.leaves(jax.eval_shape(function, empty, traced)):
        assert (result.shape[:2], result.dtype) == ((0, 2), jnp.float16)


NOT_IMAGES = [
    (np.zeros((3, 8, 8), np.float32), r"\w+ must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
    (np.zeros((8, 3), np.float32), r"\w+ must be \(..., H, W, 3\), channels last, got shape \(8, 3\)"),
    (np.zeros((8, 8, 3), np.uint8), "\\w+ must be floating point with white at 1, got uint8: divide by its white"),
]
NOT_MOSAICS = [
    (np.zeros((4, 4), np.uint16), r"\w+ must be floating point with the white level at 1, got uint16: divide by"),
    (np.zeros(4, np.float32), r"\w+ must be \(..., H, W\), got shape \(4,\)"),
    (np.zeros((5, 4), np.float32), r"\w+ must have an even height and width, got shape \(5, 4\)"),
    (np.zeros((8, 8, 3), np.float32), r"\w+ must have an even .*: mosaics \(..., H, W\) have no axis of channels"),
    (np.zeros((4, 7), np.float32), r"\w+ must have an even height and width, got shape \(4, 7\)"),
    (np.zeros((0, 4), np.float32), r"\w+ must have an even height and width, got shape \(0, 4\)"),
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_refuses_arrays_of_other_shapes_and_types(name, unchecked):
    function, traced, _ = example(name)
    for array, message in {IMAGE: NOT_IMAGES, MOSAIC: NOT_MOSAICS}.get(EXAMPLES[name][0], []):
        with pytest.raises(ValueError, match=message):
            function(array, traced)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pattern_and_key_come_second_or_by_name(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    names = [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert not {"pattern", "key"} & {*names[:1], *names[2:]}


@pytest.mark.parametrize("name", [name for name, (_, arguments) in EXAMPLES.items() if "pattern" in arguments])
def test_refuses_unknown_patterns(name):
    _, traced, inputs = example(name)
    message = r"pattern must be one of RGGB, .*, MONO, or rows of .*, got 'RGBG'"
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name.split(" ")[0]](inputs[0], **EXAMPLES[name][1] | traced | {"pattern": "RGBG"})
