"""The server of the page: it listens, prints its links, and ends when it is told to."""

import asyncio
import os
import signal
import socket
import sys
import webbrowser

import uvicorn
from starlette.types import ASGIApp

from sightline.annotate.answers import Insight
from sightline.annotate.app import application
from sightline.annotate.door import Door
from sightline.annotate.project import Project, alone
from sightline.errors import SightlineError

EVERYWHERE = ("0.0.0.0", "::", "")


def serve(
    project: Project,
    insight: Insight | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    people: int = 1,
    browser: bool = True,
) -> None:
    """Let people annotate until Ctrl-C.

    Args:
        project: see `Project`; nobody else may write its folder meanwhile.
        insight: what models say of the images, and the order that follows; by default the folder's.
        host: the address that browsers are told; by default nobody but this machine reaches it.
        port: 0 for any that is free.
        people: links to print; each lets one person in.
        browser: whether to open the first link here.

    Raises:
        SightlineError: the folder is in use or cannot be written, or the address is taken.
    """
    with alone(project.folder), listening(host, port) as listener:
        project.recover()
        door = Door(f"[{host}]" if ":" in host else host, listener.getsockname()[1])
        server = _server(application(project, insight or Insight(project), door))
        # Not asyncio's own: an interrupt while the loop is being made would be raised inside it.
        before = signal.signal(signal.SIGINT, server.handle_exit)
        try:
            links = [door.link() for _ in range(people)]
            print(*links, "Each link works once; Enter prints another, Ctrl-C ends.", sep="\n", flush=True)
            if browser and windows():
                webbrowser.open(door.link())
            asyncio.run(_run(server, door, listener))
        finally:
            signal.signal(signal.SIGINT, before)
    print(f"{sum(project.annotated)} of {len(project)} images have a mask: {project.folder / 'masks'}")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        SightlineError: it cannot.
    """
    if host in EVERYWHERE:
        raise SightlineError(f"host {host!r} is no address. Give the one that people's browsers will be told.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise SightlineError(
            f"cannot listen at {host}, port {port}: {error}. Port 0 takes any that is free."
        ) from error


def windows() -> bool:
    """Whether there is a screen: without one the browser would be one of text, in this terminal."""
    return sys.platform != "linux" or bool(os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"})


def _server(app: ASGIApp) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=3,
    ))  # fmt: skip


async def _run(server: uvicorn.Server, door: Door, listener: socket.socket) -> None:
    if sys.stdin.isatty():
        asyncio.get_running_loop().add_reader(sys.stdin, _another, door)
    await server.serve(sockets=[listener])


def _another(door: Door) -> None:
    """Print a link for each line that was typed."""
    if typed := os.read(sys.stdin.fileno(), 1024):
        print("\n".join(door.link() for _ in range(typed.count(b"\n"))), flush=True)
    else:
        asyncio.get_running_loop().remove_reader(sys.stdin)
