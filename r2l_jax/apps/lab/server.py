"""Serves the page: pictures by their addresses, uploads of limited size, and one session for each visitor."""

import ipaddress
import socket
import tempfile

import uvicorn
from fastapi import FastAPI, Response
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r2l_jax.apps.lab.lab import Lab
from r2l_jax.apps.lab.page import Page
from r2l_jax.apps.lab.presentation import Gallery
from r2l_jax.runtime import stop
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.stop import Interrupted


class LimitedBodies:
    """Refuses requests whose body has more than `most` bytes, before or while it is received."""

    def __init__(self, app: ASGIApp, most: int):
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await Response("the file is too large", 413)(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # A body without a declared length may still grow beyond the limit: the connection counts as lost.
            return {"type": "http.disconnect"} if received > self._most else message

        await self._app(scope, limited, send)


def make_app(lab: Lab, most: int, local: bool) -> FastAPI:
    """Makes the application; uploads have at most `most` bytes.

    If only this machine is served (`local`), requests for other host names are refused, because another site could
    point its name to this machine.
    """
    app, gallery = FastAPI(openapi_url=None), Gallery()

    @app.get("/pictures/{token}/{name}")
    def picture(token: str, name: str) -> Response:
        # Not a coroutine: encoding runs in a thread, and several pictures side by side.
        found = gallery.draw(token, name)
        if found is None:
            return Response(status_code=404)
        content, media_type = found
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})

    ui.run_with(
        app,
        root=lambda: Page(lab, gallery, most).build(),
        title=f"{lab.title} · r2l lab" if lab.title else "r2l lab",
        dark=None,
        language="en-US",
        tailwind=False,
        # Messages are kept for browsers that come back; pictures are not among them.
        message_history_length=100,
        show_welcome_message=False,
    )
    app.add_middleware(LimitedBodies, most=most)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


def serve(lab: Lab, host: str, port: int, most: int) -> None:
    """Serves the page until the program is interrupted, and prints its address; port 0 takes a free one.

    Raises:
        InputError: the program cannot listen on the address.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on --host={host} --port={port}: {reason}") from None
    lab.warm_up()
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
    app = make_app(lab, most, _is_local(host))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    # uvicorn sends the signal that has ended it once more, which must not end the program before this cleans up.
    with stop.after_step(), tempfile.TemporaryDirectory(prefix="r2l_lab_") as folder:
        # Everything that is received is written here, by whichever library, and removed with the folder.
        tempfile.tempdir = folder
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            tempfile.tempdir = None
            lab.close()
        if stop.requested():
            raise Interrupted("interrupted")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
