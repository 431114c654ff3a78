"""The switch between the fast formulation of the stages and the plain one.

The fast formulation is made for XLA: stencils as sums of shifted copies, units that are not fused with each other,
patches of large images, one image after the other, and loops that stop for each image by itself. It depends on the
device that a function is traced for and needs to know the number of images.

The plain formulation is for programs that take a traced function apart or ship it to other devices, such as exporters.
It pads, convolves and computes elementwise, always on the whole batch, whose size may be symbolic. Its results agree
with those of the fast one except for rounding, and its derivatives are the same.
"""

import contextlib

import jax

# Part of the cache keys of compiled functions, so that the two formulations of a function are both kept.
_is_plain = jax.make_user_context(default_value=False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Makes functions that are traced within this context take the plain formulation.

    Returns:
        The context.

    Example:
        >>> import isp
        >>> import jax
        >>> pipeline, raw = isp.parametrized(isp.CAMERAS["drone"]), jax.ShapeDtypeStruct((1, 8, 8), "float32")
        >>> with isp.plain():
        ...     traced = jax.make_jaxpr(pipeline)(raw)
        >>> "conv_general_dilated" in str(traced)
        True
    """
    return _is_plain(True)


def is_plain() -> bool:
    """Tells whether functions are being traced in the plain formulation."""
    return bool(_is_plain.value)


def is_fast_on_cpu() -> bool:
    """Tells whether functions are being traced in the fast formulation, for a CPU."""
    return not is_plain() and jax.default_backend() == "cpu"
