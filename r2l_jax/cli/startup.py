"""Start-up of every program and worker: memory settings, and the cache of compiled functions."""

import warnings

import jax

from r2l_jax.devices.memory import keep_memory, let_callbacks_read
from r2l_jax.results import store
from r2l_jax.results.files import cache_dir


def prepare(any_thread: bool = False) -> None:
    """Keeps memory (see `keep_memory`) and compiled functions. Must be called before anything else uses JAX."""
    keep_memory(any_thread)
    let_callbacks_read()
    # Hashed now, before anyone edits the source files that this process has imported.
    store.source_hash()
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds it later
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    # By default, JAX stores only functions that take over a second to compile, and most here take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # A killed process can leave an entry incomplete, which JAX compiles again but does not replace.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
