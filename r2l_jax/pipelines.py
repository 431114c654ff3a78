"""Pipelines by name: the study's, those of classical algorithms, and the user's own from a Python file.

The names are `parametrized`; `demosaic.sharpen.denoise` of `isp.ALGORITHMS`, such as
`malvar2004.unsharp_masking.gaussian_denoising`; and `<file>.py:<function>`, a function `make(camera) -> isp.Pipeline`.
"""

import dataclasses
import functools
import hashlib
import pathlib
import sys
import traceback
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.runtime.errors import InputError

_STEPS = ("demosaic", "sharpen", "denoise")

# Of the modules that files are run as; the hash of the content follows.
_MODULE = "_pipeline_"

# Names that results have for something else: all parameters, images, the curves of searches.
_RESERVED = ("all", "images", "curves")


@dataclasses.dataclass(frozen=True)
class Source:
    """The Python file that a pipeline comes from.

    Attributes:
        file: its absolute path.
        function: the function in it that makes the pipeline.
        sha256: the hash of its content.
    """

    file: str
    function: str
    sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class NamedPipeline:
    """Makes a camera's pipeline.

    Attributes:
        name: as it was given.
        title: what folders, tables and figures call it: the name, or `<file without suffix>.<function>`.
        make: makes the pipeline.
        source: the file that it comes from, if any.
    """

    name: str
    title: str
    make: Callable[[isp.Camera], isp.Pipeline]
    source: Source | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """Its name, or the function and the hash of its file, wherever that is."""
        return (self.name,) if self.source is None else (self.source.function, self.source.sha256)

    def __eq__(self, other):
        return isinstance(other, NamedPipeline) and self.identity == other.identity

    def __hash__(self):
        return hash(self.identity)

    def __call__(self, camera: isp.Camera) -> isp.Pipeline:
        """Makes the pipeline.

        Raises:
            InputError: the function of the user's file raises, or returns something else.
        """
        if self.source is None:
            return self.make(camera)
        graphdef, state = _made(self, camera)
        return nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))

    def check(self, camera: isp.Camera, height: int, width: int) -> None:
        """Raises an InputError unless the pipeline makes an image of a mosaic of this size."""
        if self.source is None:
            return
        pipeline, mosaic = self(camera), jax.ShapeDtypeStruct((1, height, width), np.float32)
        try:
            image = jax.eval_shape(pipeline, mosaic)
        except Exception as error:  # The user's stages may raise anything.
            raise InputError(
                f"{self.name} cannot process a mosaic of {height}x{width}: {_in_one_line(error, self.source.file)}"
            ) from error
        if image.shape != (1, height, width, 3) or not jnp.issubdtype(image.dtype, jnp.floating):
            raise InputError(
                f"{self.name} must make floating-point images (1, {height}, {width}, 3) of mosaics "
                f"(1, {height}, {width}), got {image.dtype} of shape {image.shape}"
            )


def find_pipeline(name: str, flag: str = "--pipeline") -> NamedPipeline:
    """Finds a pipeline by its name; the file of the user's own is run once for each content.

    Args:
        name: see the module.
        flag: what errors call it by.

    Raises:
        InputError: a name that no pipeline has, or a file that cannot be read, raises, or lacks the function.
    """
    if name == "parametrized":
        return NamedPipeline(name, name, isp.parametrized)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(name, pathlib.Path(path), function, flag)
    if name.endswith(".py"):
        raise InputError(f"{flag}={name} names a file: name the function in it that makes the pipeline, {name}:make")
    algorithms = name.split(".")
    if len(algorithms) == len(_STEPS) and all(
        each in isp.ALGORITHMS[step] for step, each in zip(_STEPS, algorithms, strict=True)
    ):
        return NamedPipeline(name, name, lambda camera: isp.static(camera, *algorithms))
    choices = " . ".join("|".join(isp.ALGORITHMS[step]) for step in _STEPS)
    raise InputError(
        f"{flag}: no pipeline is called {name!r}; there are parametrized, {choices}, and <file>.py:<function>"
    )


def _from_file(name: str, path: pathlib.Path, function: str, flag: str) -> NamedPipeline:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{flag}={name}: {path}: {error.strerror}") from None
    source = Source(str(path.resolve()), function, hashlib.sha256(content).hexdigest())
    try:
        module = _run(source.file, content)
    except (Exception, SystemExit) as error:
        raise InputError(f"{flag}={name} cannot be run: {_in_one_line(error, source.file)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        raise InputError(f"{flag}={name}: {path} has no function {function!r} that takes a camera")
    return NamedPipeline(name, f"{path.stem}.{function}", make, source)


@functools.cache
def _run(file: str, content: bytes) -> types.ModuleType:
    """Runs a file, once for each content, so that equal pipelines have the same functions and share compiled code."""
    # The name tells results of other contents apart, see `model_hash.described`.
    module = types.ModuleType(_MODULE + hashlib.sha256(content).hexdigest())
    module.__file__ = file
    # Where dataclasses look up the module of a class.
    sys.modules[module.__name__] = module
    exec(compile(content, file, "exec"), module.__dict__)
    return module


def is_from_file(function: Callable) -> bool:
    """Tells whether a function was defined in a file of the user's."""
    return str(function.__module__).startswith(_MODULE)


@functools.cache
def _made(named: NamedPipeline, camera: isp.Camera) -> tuple[nnx.GraphDef, nnx.State]:
    """Calls the function of the user's file, once for each camera: it may make functions, which are compiled once."""
    try:
        # Computes values even where the caller is traced, so that none of the trace stays in what is kept.
        with jax.ensure_compile_time_eval():
            pipeline = named.make(camera)
            if isinstance(pipeline, isp.Pipeline):
                graphdef, state = nnx.split(pipeline)
                state = jax.device_get(state)
    except (Exception, SystemExit) as error:
        raise InputError(f"{named.name} raised {_in_one_line(error, named.source.file)}") from error
    if not isinstance(pipeline, isp.Pipeline):
        raise InputError(f"{named.name} must return an isp.Pipeline, got {type(pipeline).__name__}")
    for name in _RESERVED:
        if name in pipeline.facts:
            raise InputError(f"{named.name} has a parameter called {name!r}, a name that results use: rename it")
    return graphdef, state


def _in_one_line(error: BaseException, file: str) -> str:
    """Says what an error is, and in which line of the user's file it was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    message = str(error).strip()
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, message = [error.lineno], error.msg
    where = f" (line {lines[-1]})" if lines else ""
    # A shape check explains itself in many lines, of which the first says it.
    return f"{type(error).__name__}{': ' + message.splitlines()[0] if message else ''}{where}"
