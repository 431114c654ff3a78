"""Checks every shape in a public signature while the tests run, and keeps JAX on the CPU."""

import contextlib
import gc
import importlib.metadata
import os
import re
import signal
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Computing small arrays takes less time than optimizing the code for it; `optimized` compiles where a test needs that.
# Flags of the environment, such as those for another processor, are kept.
if "--xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    _flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    if importlib.metadata.version("jax").startswith("0.10."):  # Later ones end at these flags, which they do not know.
        # The second is for machines whose cores are idle; tests run on all cores.
        _flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    os.environ["XLA_FLAGS"] = " ".join(_flags).strip()
# The user's own folders, where hashes of files are remembered, stay as they are.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _home = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = f"{_home.name}/cache"
# Tests compile the same functions again and again. They share them with the programs that they start and with the
# processes of pytest-xdist, which inherit the folder, and with later runs: it is in pytest's cache.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Programs write theirs to stderr, which tests compare.
os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
# As `flags.run` sets it where a user starts a program; tests start programs that have imported JAX before. On some
# processors, XLA reports each function that it reads from the cache as an error: tests of stderr would see it, and a
# program would wait once the pipe that nobody reads is full.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jaxtyping import install_import_hook  # noqa: E402

# By default, Python looks for unreachable cycles so often that it takes a quarter of the time of collecting the tests.
gc.set_threshold(20_000)
# A shell makes its background processes ignore interrupts, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
install_import_hook(["isp", "tasks", "r2l_jax"], "beartype.beartype")

import dng  # noqa: E402
import inventory  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from r2l_jax.results import result as results  # noqa: E402

_unknown, _tables = set(), {}
_make_result, _make_table = results.Result.__init__, results.Table.__new__


def _result(result, *content, **named):
    _make_result(result, *content, **named)
    facts = inventory.result_facts(result, *inventory.maker(), {place: of for place, (_, of) in _tables.items()})
    _unknown.update(facts - inventory.claims().keys() - inventory.unclaimed())


def _table(*content, **named):
    table = _make_table(*content, **named)
    # Kept, so that no other one has its place.
    _tables[id(table)] = table, inventory.maker()[0]
    return table


results.Result.__init__, results.Table.__new__ = _result, _table


def pytest_sessionstart(session):
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    # Entries for code that has changed are never used again.
    with contextlib.suppress(FileNotFoundError):  # Another run of tests begins as well.
        entries = list(COMPILED.glob("*-cache"))
        if sum(entry.stat().st_size for entry in entries) > 2**30:
            for entry in entries:
                entry.unlink()


def pytest_configure(config):
    # Left to itself, pytest-xdist ends with the files of fewest tests, which take longest, one worker idle.
    config.option.loadscopereorder = False
    # Whatever can be imported from the folders of the checkout is ours. A dependency's warnings about its own modules
    # are not for us to mend, and a deprecation breaks nothing today.
    names = {path.stem for folder in config.getini("pythonpath") for path in folder.iterdir()}
    own_modules = rf"({'|'.join(map(re.escape, sorted(names)))})(\.|$)"
    own_deprecations = "error" if config.getoption("own_deprecations") else "default"
    filters = [f"error:::{own_modules}", "error::pytest.PytestWarning"]
    for category in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"):
        filters += [f"default::{category}", f"{own_deprecations}::{category}:{own_modules}"]
    # The last filter that applies decides: those of pyproject.toml.
    config.getini("filterwarnings")[:0] = filters


def pytest_addoption(parser):
    parser.addoption("--own_deprecations", action="store_true", help="deprecations in our own modules are errors")
    parser.addoption("--slow_twentieth", type=int, help="leave out all slow tests but a twentieth, that of this number")


def pytest_collection_modifyitems(config, items):
    number = config.getoption("slow_twentieth")
    slow = {item for item in items if item.get_closest_marker("slow")}
    turn = 0
    if number is not None:
        turn, twentieth = divmod(number, 20)
        deselected = {item for item in slow if zlib.crc32(item.nodeid.encode()) % 20 != twentieth}
        config.hook.pytest_deselected(items=list(deselected))
        items[:] = [item for item in items if item not in deselected]
    # Files of slow tests come first. Each turn begins with another one, since the time may not suffice for all.
    first = {item.path: zlib.crc32(f"{turn} {item.path}".encode()) for item in slow}
    items.sort(key=lambda item: first.get(item.path, 2**32))


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


@pytest.fixture(autouse=True)
def _inventoried(request):
    """Fails where a quick test has made a result with a column, key or figure that no test shows."""
    yield
    unknown = inventory.joined(_unknown)
    _unknown.clear()
    assert not unknown or request.node.get_closest_marker("slow"), (
        "no test shows these, see tests/fixtures/inventory.py:\n" + "\n".join(unknown)
    )


@pytest.fixture
def unchecked():
    """Switches the shape checks off, for tests of the errors that a user without them gets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def write_dng(tmp_path):
    """`dng.write` into the test's folder, by the name of the file."""

    def write(samples, name="test.dng", *arguments, **tags):
        return dng.write(tmp_path / name, samples, *arguments, **tags)

    return write
