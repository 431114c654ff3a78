"""Large images pass through pipelines patch by patch, which changes no result."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp import pipeline
from isp._fusion import lowering
from isp._kernels import turns

DRONE = isp.CAMERAS["drone"]
LEVELS = (0.06, 0.05, 0.07)
CAMERAS = {
    "bayer": DRONE,
    "quad": dataclasses.replace(DRONE, black_level=LEVELS, pattern="RRGG/RRGG/GGBB/GGBB"),
    "x_trans": dataclasses.replace(DRONE, black_level=LEVELS, pattern="GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"),
    "mono": dataclasses.replace(DRONE, black_level=(0.06,), pattern="MONO"),
}
SHORTER = {"patch_distance": 3}  # Shifts of non-local means, which take most of the time.

# Of all tiles larger than one site, only Bayer's divides the sides.
RAW = np.random.default_rng(0).random((1, 206, 170), np.float32)


def by_algorithm():
    """Makes a pipeline for each local algorithm that is not among the defaults of the others."""
    for step, algorithms in isp.ALGORITHMS.items():
        for name in algorithms:
            module = isp.static(DRONE, **{step: name}, **SHORTER if "nlm" in name else {})
            (stage,) = (stage for stage in module.stages if stage.name == step)
            is_local = lowering.distance(stage, module.parameters()) is not None
            if is_local and name not in {"none", "bilinear", "sharpening_filter", "gaussian_denoising"}:
                marks = [] if name == "menon2007" else [pytest.mark.slow]
                yield pytest.param(module, id=name, marks=marks)


def by_camera():
    for name, camera in CAMERAS.items():
        for make in (isp.parametrized, isp.full):
            marks = [] if name == "bayer" else [pytest.mark.slow]
            yield pytest.param(make(camera), id=f"{make.__name__}-{name}", marks=marks)


DEMOSAIC = isp.Stage("demosaic", isp.demosaic.bilinear)
MODULES = [*by_algorithm(), *by_camera()]


def whole_and_in_patches(module, monkeypatch, function):
    """Evaluates a function of the pipeline for the image as a whole and in patches."""

    def evaluated():
        # Not the pipeline's own compiled function, which is found again for an image of the same size.
        run = functools.partial(pipeline._run.__wrapped__, module.stages)
        program = jax.jit(lambda parameters: function(run, parameters)).lower(module.parameters())
        return program.compile()(module.parameters()), program.as_text().count("while")

    whole, loops = evaluated()
    monkeypatch.setattr(turns, "_LARGE", 17_000)
    monkeypatch.setattr(turns, "_PATCH", (52, 60))
    in_patches, more_loops = evaluated()
    assert more_loops > loops
    return whole, in_patches


@pytest.mark.cpu
@pytest.mark.parametrize("module", [module for module in MODULES if module.id != "parametrized-bayer"])
def test_images_are_the_same_in_patches(module, monkeypatch):
    whole, in_patches = whole_and_in_patches(
        module, monkeypatch, lambda run, parameters: run(parameters, jnp.array(RAW))
    )
    # In linear light: the gamma multiplies rounding errors in the dark.
    np.testing.assert_allclose(in_patches**2.2, whole**2.2, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_pixel_influences_no_pixel_beyond_the_distance(module):
    raw, (row, col) = jnp.array(RAW[:, :96, :96]), (47, 48)
    nothing = {name: jnp.zeros_like(image) for name, image in module.trace(raw)[1].items()}
    _, images = module.trace(raw, nothing)
    for before, stage in itertools.pairwise(module.stages):
        distance = lowering.distance(stage, module.parameters())
        if distance is not None:
            for change in (-1, 1):
                impulse = {before.name: nothing[before.name].at[:, row, col].set(change)}
                changed = np.asarray(module.trace(raw, nothing | impulse)[1][stage.name] != images[stage.name])
                distances = np.abs(np.argwhere(changed.reshape(*raw.shape, -1).any((0, -1))) - (row, col))
                assert distances.max(initial=0) <= distance, stage.name


def means_of_rows(rgb, weight):
    above, below = (jnp.concatenate([rgb[:, :1], rgb, rgb[:, -1:]], 1)[:, i : i + rgb.shape[1]] for i in (0, 2))
    return rgb + weight * (above + below)


@pytest.mark.cpu
@pytest.mark.parametrize("compiled", [lambda f: isp.local(1)(jax.jit(f)), lambda f: jax.jit(isp.local(1)(f))])
def test_a_local_stage_of_a_user_passes_in_patches_with_its_neighbors(compiled, monkeypatch):
    def again(rgb, weight):  # A function of its own, because `isp.local` marks the function itself.
        return means_of_rows(rgb, weight)

    def loops(function):
        stage = isp.Stage("means", function, {"weight": isp.Parameter(0.3, width=1)})
        module = isp.Pipeline([DEMOSAIC, stage, isp.stages.color_correct(DRONE)])
        run = functools.partial(pipeline._run.__wrapped__, module.stages)  # Traced anew for each size of patches.
        program = jax.jit(lambda parameters: run(parameters, jnp.array(RAW))).lower(module.parameters())
        return program.compile()(module.parameters()), program.as_text().count("while")

    whole, _ = loops(means_of_rows)
    monkeypatch.setattr(turns, "_LARGE", 17_000)
    monkeypatch.setattr(turns, "_PATCH", (52, 60))
    _, of_two_groups = loops(means_of_rows)
    in_patches, of_one_group = loops(compiled(again))
    assert 0 < of_one_group < of_two_groups
    np.testing.assert_allclose(in_patches, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", [-1, 0.5, True, "all"])
def test_refuses_a_distance_that_is_no_whole_number(distance, unchecked):
    with pytest.raises(ValueError, match="distance must be a function or a whole number of at least 0, got"):
        isp.local(distance)
