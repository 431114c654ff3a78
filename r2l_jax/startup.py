"""An earlier home of `keep_memory`, kept for the code that imports it from here."""

from r2l_jax.runtime.startup import keep_memory

__all__ = ["keep_memory"]
