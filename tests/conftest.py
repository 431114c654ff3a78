"""Checks every shape in a public signature while the tests run, and keeps JAX on the CPU."""

import os
import tempfile
from pathlib import Path

import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small arrays take less time than optimising what computes them. Tests of optimised code compile it by `optimised`.
# The processes that pytest-xdist and tests start find the flags in the environment, and do not ask XLA again.
if "XLA_FLAGS" not in os.environ:
    fast_to_compile = ["--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"]
    os.environ["XLA_FLAGS"] = " ".join(xla_flags.known(fast_to_compile))
# The user's cache folder, where hashes of files are remembered, stays as it is.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = _cache.name
# Tests that train compile the same steps again and again. They share compiled functions with the programs that they
# start and with the processes of pytest-xdist, which inherit the folder of the process that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from jaxtyping import install_import_hook

install_import_hook(["isp", "tasks", "r2l_jax"], "beartype.beartype")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402


def pytest_configure(config):
    # Left to itself, pytest-xdist ends with the files of fewest tests, which take longest, one worker idle.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _few_compiled_functions():
    """Forgets the compiled functions of the files before, once there are many.

    Each takes several mappings of memory, of which Linux allows a process 65,530: without this, XLA could allocate none
    towards the end of the suite.
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()


@pytest.fixture
def unchecked():
    """Switches the shape checks off, for tests of the errors that a user without them gets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def write_dng(tmp_path):
    """A function that writes samples as an uncompressed DNG and returns its path.

    Its keyword arguments are DNG's tags: `cfa` the colour of each site of the tile (0 red, 1 green, 2 blue), `black`
    the level of each site, `neutral` the camera's RGB of a grey as shot, `matrix` CIE XYZ to camera RGB, `active_area`
    (top, left, bottom, right). None leaves a tag out. `tags` are any more, as tifffile takes them.
    """
    from fractions import Fraction

    import tifffile

    def rationals(values):
        fractions = [Fraction(value).limit_denominator(10000) for value in values]
        return [number for fraction in fractions for number in (fraction.numerator, fraction.denominator)]

    def write(
        samples,
        name="test.dng",
        cfa=(0, 1, 1, 2),
        black=None,
        white=4095,
        neutral=(0.5, 1.0, 0.7),
        matrix=(0.9, -0.3, -0.1, -0.45, 1.3, 0.15, -0.1, 0.25, 0.6),
        active_area=None,
        camera=("Maker", "Model"),
        tags=(),
    ):
        make, model = camera
        tags = [(271, "s", 0, make), (272, "s", 0, model), (50708, "s", 0, f"{make} {model}"), *tags]
        tags += [(50706, "B", 4, (1, 4, 0, 0)), (50707, "B", 4, (1, 1, 0, 0)), (50717, "I", 1, white)]
        if cfa is not None:
            tags += [(33421, "H", 2, (round(len(cfa) ** 0.5),) * 2), (33422, "B", len(cfa), cfa)]
        if black is not None:
            tags += [(50713, "H", 2, (2, 2)), (50714, "H", 4, black)]
        if neutral is not None:
            tags += [(50728, "2I", 3, rationals(neutral))]
        if matrix is not None:
            tags += [(50721, "2i", 9, rationals(matrix)), (50778, "H", 1, 21)]  # for D65
        if active_area is not None:
            tags += [(50829, "I", 4, active_area)]
        layout = (
            {"photometric": "cfa"} if samples.ndim == 2 else {"photometric": "linear_raw", "planarconfig": "contig"}
        )
        tifffile.imwrite(tmp_path / name, samples, **layout, metadata=None, extratags=tags)
        return tmp_path / name

    return write
