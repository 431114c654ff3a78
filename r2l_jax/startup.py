"""How every program starts: compiled code kept between runs, several hosts, and errors as one line."""

import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence

import jax
import pooch
from absl import app, flags, logging

from r2l_jax.errors import InputError
from r2l_jax.stop import Interrupted


def cache_dir() -> pathlib.Path:
    """The user's cache folder for this project: generated data sets and compiled functions."""
    return pathlib.Path(pooch.os_cache("r2l_jax"))


def prepare() -> None:
    """Keeps compiled functions between runs, and joins the other hosts if the environment names a coordinator.

    Compiled functions go to JAX_COMPILATION_CACHE_DIR, or to the user's cache folder. Several hosts meet at
    JAX_COORDINATOR_ADDRESS (host:port of the first), each with its own JAX_PROCESS_ID of JAX_NUM_PROCESSES. Call it
    before anything else uses JAX.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    # Many small functions compile in less than the second below which JAX would not keep them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        # What is not given, JAX finds out from the cluster's own variables (Slurm, Kubernetes, Open MPI).
        given = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
        jax.distributed.initialize(**{name: int(value) for name, value in given.items() if value})


def run(main: Callable[[], int | None]) -> None:
    """Runs an absl program: parses the flags, prepares, calls `main()`, and exits with the status it returns.

    An InputError, a wrong flag or a stray argument becomes one line on stderr and exit status 1; an interruption is
    status 130. Any other exception keeps its traceback.
    """
    # Orbax and Grain report their every step at absl's default level.
    logging.set_verbosity(logging.WARNING)

    def guarded(argv: Sequence[str]) -> int:
        program = pathlib.Path(argv[0]).name
        try:
            if stray := list(argv[1:]):
                raise InputError(f"unexpected arguments {stray}; every option has the form --name=value")
            prepare()
            return main() or 0
        except InputError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
            return 1
        except Interrupted as stop:
            print(f"{program}: {stop}", file=sys.stderr)
            return 130
        except KeyboardInterrupt:
            print(f"{program}: interrupted", file=sys.stderr, flush=True)
            # Python's own way out would tear XLA down under the threads that still compile, which ends in a crash.
            os._exit(130)

    def parse(argv: Sequence[str]) -> Sequence[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            sys.exit(f"{pathlib.Path(argv[0]).name}: error: {' '.join(str(error).split())}")

    # Schedulers end a program by SIGTERM: it shall clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app.run(guarded, flags_parser=parse)
