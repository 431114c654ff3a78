"""Compiles functions for a camera that is a static argument, or inlines them for one whose values are traced."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from isp.camera import Camera

Function = Callable[..., Any]


def for_camera(*static: str) -> Callable[[Function], Function]:
    """Compiles a function of a camera, once per camera and shape.

    A camera with traced values belongs to a function that is being compiled already, of which the function becomes a
    part. The compiled function is the attribute `compiled`.

    Args:
        *static: The names of other static arguments.
    """

    def decorate(function: Function) -> Function:
        compiled = jax.jit(function, static_argnames=("camera", *static))

        @functools.wraps(function)
        def call(*args: Any, **settings: Any) -> Any:
            cameras = (each for each in (*args, *settings.values()) if isinstance(each, Camera))
            return (function if any(camera.is_traced for camera in cameras) else compiled)(*args, **settings)

        vars(call)["compiled"] = compiled
        return call

    return decorate
