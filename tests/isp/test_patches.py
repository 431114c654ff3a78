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
from isp._kernels import tiling

DRONE = isp.CAMERAS["drone"]
LEVELS = (0.06, 0.05, 0.07)
CAMERAS = {
    "bayer": DRONE,
    "quad": dataclasses.replace(DRONE, black_level=LEVELS, pattern="RRGG/RRGG/GGBB/GGBB"),
    "x_trans": dataclasses.replace(DRONE, black_level=LEVELS, pattern="GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"),
    "mono": dataclasses.replace(DRONE, black_level=(0.06,), pattern="MONO"),
}

# Of all tiles larger than one site, only Bayer's divides the sides.
RAW = np.random.default_rng(0).random((1, 206, 170), np.float32)


def modules():
    """Makes a pipeline for each local algorithm that is not among the defaults of the others, and for each camera."""
    for step, algorithms in isp.ALGORITHMS.items():
        for name in algorithms.keys() - {"none", "bilinear", "sharpening_filter", "gaussian_denoising"}:
            # Shifts of non-local means take most of the time.
            module = isp.static(DRONE, **{step: name}, **{"patch_distance": 3} if "nlm" in name else {})
            (stage,) = (stage for stage in module.stages if stage.name == step)
            if lowering.distance(stage, module.parameters()) is not None:
                yield name, module
    for name, camera in CAMERAS.items():
        yield f"parametrized-{name}", isp.parametrized(camera)
        yield f"full-{name}", isp.full(camera)


QUICK = ("menon2007", "full-bayer")
MODULES = [
    pytest.param(module, id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name, module in sorted(modules())
]


def render(module):
    """Processes an image, traced again for each patch size; counts the loops of the program as well."""
    run = functools.partial(pipeline._run.__wrapped__, module.stages)
    program = jax.jit(lambda parameters: run(parameters, jnp.array(RAW))).lower(module.parameters())
    return np.asarray(program.compile()(module.parameters())), program.as_text().count("while")


@pytest.mark.cpu
@pytest.mark.parametrize("module", MODULES)
def test_images_are_the_same_in_patches(module, monkeypatch):
    whole, loops = render(module)
    monkeypatch.setattr(tiling, "_LARGE", 17_000)
    monkeypatch.setattr(tiling, "_PATCH", (52, 60))
    in_patches, more_loops = render(module)
    assert more_loops > loops
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
        for change in (-1, 1) if distance is not None else ():
            impulse = {before.name: nothing[before.name].at[:, row, col].set(change)}
            changed = np.asarray(module.trace(raw, nothing | impulse)[1][stage.name] != images[stage.name])
            distances = np.abs(np.argwhere(changed.reshape(*raw.shape, -1).any((0, -1))) - (row, col))
            assert distances.max(initial=0) <= distance, stage.name


@pytest.mark.parametrize("compiled", [lambda f: isp.local(1)(jax.jit(f)), lambda f: jax.jit(isp.local(1)(f))])
def test_a_compiled_function_of_a_user_declares_how_far_it_looks(compiled):
    assert lowering.distance(isp.Stage("means", compiled(lambda rgb: rgb + rgb[:, ::-1])), {}) == 1


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("make", [isp.parametrized, isp.full])
def test_a_large_frame_takes_little_more_memory_than_itself_and_its_picture(make):
    module, frame = make(DRONE), jax.ShapeDtypeStruct((4000, 6000), jnp.float32)
    program = jax.jit(lambda parameters, raw: module.with_values(parameters)(raw)).lower(module.parameters(), frame)
    plan = program.compile().memory_analysis()
    needed = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
    assert needed < 1.5 * 16 * frame.size
