"""Serves the page on this machine, with its pictures by their addresses."""

import socket
import tempfile
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from r2l_jax.apps.lab import drawing
from r2l_jax.apps.lab.lab import Lab
from r2l_jax.apps.lab.page import Page
from r2l_jax.apps.lab.session import Session
from r2l_jax.cli import stop
from r2l_jax.cli.stop import Interrupted
from r2l_jax.errors import InputError


def make_app(lab: Lab, folder: Path) -> FastAPI:
    """Makes the application, which writes the files that are dropped on the page to a folder."""
    app, session = FastAPI(openapi_url=None), Session(lab)

    @app.get("/pictures/{name}")
    def picture(name: str) -> Response:
        # Not a coroutine, so that pictures are encoded in threads, several at once.
        content = None if session.view is None else drawing.draw(session.view, name)
        if content is None:
            return Response(status_code=404)
        return Response(content, media_type="image/*", headers={"Cache-Control": "no-store"})

    nicegui_app.on_startup(session.run)
    if lab.sources:
        nicegui_app.on_startup(lambda: session.open(lab.sources[0]))
    ui.run_with(
        app,
        root=lambda: Page(session, folder).build(),
        title=f"{lab.title} · r2l lab" if lab.title else "r2l lab",
        dark=None,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
    )
    # Against DNS rebinding: another site could point its host name to this machine.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return app


def serve(lab: Lab, port: int) -> None:
    """Serves the page until the program is interrupted, and prints its address; port 0 takes a free one.

    Raises:
        InputError: the program cannot listen on the port.
    """
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(f"cannot listen on `port={port}`: {error.strerror}") from None
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/  (Ctrl-C to stop)", flush=True)
    # uvicorn re-raises the signal that ended it, which must not end the program before the folder is removed.
    with stop.after_step(), tempfile.TemporaryDirectory(prefix="r2l_lab_") as folder:
        config = uvicorn.Config(make_app(lab, Path(folder)), log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
        if stop.requested():
            raise Interrupted("interrupted")
