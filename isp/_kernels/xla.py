"""Handing functions to XLA: in units, in a fast or a plain formulation, and with explicit derivatives.

The fast formulation writes stencils as sums of shifted copies, keeps units from being fused with each other, takes
large images in patches and batches one image after the other, and stops loops for each image separately. It depends on
the device that a function is traced for and needs to know the number of images.

The plain formulation is for exports, which translate a traced function or ship it to other devices; `isp.Pipeline` uses
it where the number of images is symbolic. It pads, convolves and computes elementwise, always on the whole batch. Both
formulations agree except for rounding, and have the same derivatives.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, PyTree

P = ParamSpec("P")
Result = TypeVar("Result")

# Part of the cache keys of compiled functions, so that the two formulations of a function are both kept.
_is_plain = jax.make_user_context(default_value=False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Makes functions that are traced within this context use the plain formulation."""
    return _is_plain(True)


def plain_for(images: Array) -> contextlib.AbstractContextManager[None]:
    """Makes functions use the plain formulation if the number of images is symbolic, as in exports of any batch."""
    return contextlib.nullcontext() if all(isinstance(side, int) for side in images.shape) else plain()


def is_plain() -> bool:
    """Returns whether functions are being traced in the plain formulation."""
    return bool(_is_plain.value)


def is_fast_on_cpu() -> bool:
    """Returns whether functions are being traced in the fast formulation, for a CPU."""
    return not is_plain() and jax.default_backend() == "cpu"


def unfused(function: Callable[P, Result]) -> Callable[P, Result]:
    """Makes a function of arrays a separate unit on CPUs, which XLA does not fuse with its surroundings.

    Operands and results of the unit exist in memory. Its derivatives and its batched versions are such units as well.
    Values do not change. On other devices the function stays unchanged, because GPUs gain from fusing.
    """

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Result:
        # Without this, the functions called inside would inherit "false".
        with set_xla_metadata(inlineable="true"):
            return function(*args, **kwargs)

    unit = jax.jit(inner)

    @functools.wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> Result:
        if not is_fast_on_cpu():
            return function(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return unit(*args, **kwargs)

    return outer


@functools.cache
def unfused_with(function: Callable[..., Result], *static: Hashable) -> Callable[..., Result]:
    """Makes a unit, as `unfused` does, of a function of static arguments and arrays, traced once for its shapes."""
    return unfused(functools.partial(function, *static))


def with_gradient(
    function: Callable[..., Result],
    backward: Callable[..., tuple[PyTree, ...]],
    static_argnums: Sequence[int] = (),
    forward: Callable[..., tuple[Result, PyTree]] | None = None,
) -> Callable[..., Result]:
    """Gives a function of arrays a reverse-mode derivative; forward mode does not work.

    This is `jax.custom_vjp`, except that the functions always get JAX arrays, and keep their formulation. Without
    `forward`, the residuals are the tuple of the arguments that are not static.
    """

    def formulated(plainly: bool) -> Callable[..., Result]:
        """Makes the function in one formulation, which its derivative keeps wherever it is traced."""

        def primal(*args: PyTree) -> Result:
            with _is_plain(plainly):
                return function(*_with_arrays(args, static_argnums))

        def primal_and_residuals(*args: PyTree) -> tuple[Result, PyTree]:
            if forward is None:
                return differentiable(*args), tuple(arg for i, arg in enumerate(args) if i not in static_argnums)
            with _is_plain(plainly):
                return forward(*_with_arrays(args, static_argnums))

        def cotangents(*args: PyTree) -> tuple[PyTree, ...]:
            with _is_plain(plainly):
                return backward(*_with_arrays(args, range(len(static_argnums))))

        differentiable = jax.custom_vjp(primal, nondiff_argnums=static_argnums)
        differentiable.defvjp(primal_and_residuals, cotangents)
        return differentiable

    fast, plain = formulated(False), formulated(True)
    return lambda *args: (plain if is_plain() else fast)(*_varying_alike(args, static_argnums))


def _varying_alike(args: Sequence[PyTree], static_argnums: Sequence[int]) -> list[PyTree]:
    """Makes all arrays vary over the `jax.shard_map` devices over which one does: JAX then sums their derivatives."""
    arrays = [arg for i, arg in enumerate(args) if i not in static_argnums]
    varying = frozenset[Hashable]().union(*map(_axes, jax.tree.leaves(arrays)))
    if not varying:
        return list(args)

    def vary(leaf: Array) -> Array:
        missing = tuple(varying - _axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return [arg if i in static_argnums else jax.tree.map(vary, arg) for i, arg in enumerate(args)]


def _axes(array: Array) -> frozenset[Hashable]:
    """Returns the axes of `jax.shard_map` over which an array varies."""
    return jax.typeof(array).manual_axis_type.varying


def _with_arrays(args: Sequence[PyTree], static_argnums: Sequence[int]) -> list[PyTree]:
    return [arg if i in static_argnums else jax.tree.map(jnp.asarray, arg) for i, arg in enumerate(args)]
