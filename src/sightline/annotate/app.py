"""What the page asks for and what it tells, as HTTP; see docs/annotate.md."""

import asyncio
import errno
import io
from math import ceil, isnan
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sightline.annotate import operations
from sightline.annotate.answers import Insight
from sightline.annotate.canvas import grey
from sightline.annotate.door import Door, Gate, refused
from sightline.annotate.notes import VERDICTS
from sightline.annotate.project import NOTEBOOK, Project, label, now
from sightline.colours import veil
from sightline.errors import SightlineError
from sightline.pictures import open_picture

PAGE = Path(__file__).parent / "static"

LIMIT = 4 * 2**20
"""Bytes of the largest request."""

PATIENCE = 30
"""Seconds a request may take to arrive."""

SMALL = 128
"""Longer side of a thumbnail."""

LARGEST_MAP = 1024
"""Longer side of a map; the page enlarges it."""

EXACT = 4_000_000
"""Pixels of the largest image that is sent without loss."""


class App:
    """The handlers, around one project and what models say of it."""

    def __init__(self, project: Project, insight: Insight, door: Door) -> None:
        self.project, self.insight, self.door = project, insight, door

    def routes(self) -> list[BaseRoute]:
        """Every address that is answered."""
        image = "/api/images/{i}"
        return [
            Route("/", self.page),
            Mount("/static", StaticFiles(directory=PAGE, check_dir=False)),
            Route("/api/project", self.overview),
            Route("/api/next", self.next),
            Route("/api/export", self.export, methods=["POST"]),
            Route(f"{image}/picture", self.picture),
            Route(f"{image}/thumbnail", self.thumbnail),
            Route(f"{image}/mask", self.mask),
            Route(f"{image}/map", self.map),
            Route(f"{image}/operations", self.operations),
            Route(f"{image}/operations", self.add, methods=["POST"]),
            Route(f"{image}/verdict", self.judge, methods=["POST"]),
        ]

    def page(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(PAGE / "page.html")

    def overview(self, request: Request) -> Response:
        """All that is known of the images, but for their pixels."""
        project = self.project
        notes = [project.notes[key] for key in project.keys]
        images = [self._image(index) for index in range(len(project))]
        return JSONResponse(
            {
                "name": project.folder.resolve().name,
                "classes": project.classes,
                "images": images,
                "order": self.insight.order,
                "ranking": self.insight.by,
                "progress": {
                    "annotated": sum(project.annotated),
                    "verdicts": sum(note.verdict in VERDICTS for note in notes),
                    "total": len(project),
                    "seconds": round(sum(note.seconds for note in notes), 1),
                },
            }
        )

    def _image(self, index: int) -> dict[str, Any]:
        project = self.project
        entry, (height, width), note = project.entries[index], project.sizes[index], project.notes[project.keys[index]]
        score = self.insight.scores[index]
        return {
            "i": index,
            "id": entry.id,
            "label": label(entry),
            "split": entry.split,
            "width": width,
            "height": height,
            "annotated": project.annotated[index],
            "verdict": note.verdict or None,
            "score": None if isnan(score) else score,
            "has_map": self.insight.has_map(index),
            "seconds": note.seconds,
        }

    def next(self, request: Request) -> Response:
        """The next image without a mask, in the order of the ranking."""
        order = self.insight.order
        after = self._index(request.query_params.get("after", ""))
        place = order.index(after) + 1
        ahead = order[place:] + order[: place - 1]
        return JSONResponse({"next": next((i for i in ahead if not self.project.annotated[i]), None)})

    async def export(self, request: Request) -> Response:
        """All masks in one file."""
        operations.checked(await told(request), ())
        path = self.project.folder / NOTEBOOK / "coco.json"
        await run_in_threadpool(self.project.export, path)
        return FileResponse(path, filename=f"{self.project.folder.resolve().name}.json")

    def picture(self, request: Request) -> Response:
        """The image as a browser can show it."""
        image = self._picture(request)
        return shown(image) if image.width * image.height <= EXACT else shown(image, "jpeg", quality=92)

    def thumbnail(self, request: Request) -> Response:
        """The image, small."""
        image = self._picture(request)
        image.thumbnail((SMALL, SMALL))
        return shown(image, "jpeg", quality=80)

    def _picture(self, request: Request) -> Image.Image:
        return open_picture(self.project.entries[self._of(request)].image).convert("RGB")

    def mask(self, request: Request) -> Response:
        """What is marked, 255 on 0."""
        with self.project.canvas(self._of(request)) as canvas:
            mask, version = canvas.mask, canvas.version
        response = shown(grey(mask))
        response.headers["X-Version"] = str(version)
        return response

    def map(self, request: Request) -> Response:
        """Where a model looks, in colours that are clear where it does not."""
        index = self._of(request)
        found = self.insight.map(index)
        if found is None:
            raise HTTPException(404, "there is no map of this image.")
        height, width = self.project.sizes[index]
        smaller = min(1, LARGEST_MAP / max(height, width))
        return shown(Image.fromarray(veil(found, (ceil(height * smaller), ceil(width * smaller)))))

    def operations(self, request: Request) -> Response:
        """The lines of the log from `since` on."""
        since = whole_number(request.query_params.get("since", "0"))
        if since is None:
            raise HTTPException(422, "since must be a whole number.")
        with self.project.canvas(self._of(request)) as canvas:
            log = canvas.log
        return JSONResponse({"version": len(log), "operations": [operation.line() for operation in log[since:]]})

    async def add(self, request: Request) -> Response:
        """Log and draw what somebody did to a mask."""
        index = self._of(request)
        fields = operations.checked(await told(request), ("operations", "seconds"))
        new = operations.operations(
            fields.get("operations"), self.project.sizes[index], self.door.person(request) or "", now()
        )
        seconds = operations.seconds(fields)
        version, annotated = await run_in_threadpool(self.project.add, index, new, seconds)
        return JSONResponse({"version": version, "annotated": annotated})

    async def judge(self, request: Request) -> Response:
        """Keep whether the map lies on the right pixels."""
        index = self._of(request)
        fields = operations.checked(await told(request), ("verdict", "seconds"))
        verdict = fields.get("verdict")
        if verdict is not None and verdict not in VERDICTS:
            raise HTTPException(422, 'verdict must be "yes", "no" or null.')
        changes = {"verdict": verdict or "", "by": self.door.person(request), "time": now()}
        await run_in_threadpool(self.project.note, index, operations.seconds(fields), **changes)
        return JSONResponse({"verdict": verdict})

    def _of(self, request: Request) -> int:
        return self._index(request.path_params["i"])

    def _index(self, text: str) -> int:
        index = whole_number(text)
        if index is None or index >= len(self.project):
            raise HTTPException(404, f"there is no image of this number. There are {len(self.project)}, from 0 on.")
        return index


def application(project: Project, insight: Insight, door: Door) -> ASGIApp:
    """What an ASGI server runs."""
    app = Starlette(
        routes=App(project, insight, door).routes(),
        exception_handlers={HTTPException: spoken, SightlineError: explained, ClientDisconnect: gone},
    )
    app.router.redirect_slashes = False
    return Gate(app, door)


async def told(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        HTTPException: it is no JSON, or too long, or too slow.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected application/json.")
    text = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                text += chunk
                if len(text) > LIMIT:
                    raise HTTPException(413, f"a request may have {LIMIT} bytes.")
    except TimeoutError as error:
        raise HTTPException(408, f"the request took longer than {PATIENCE} seconds.") from error
    return operations.parsed(bytes(text))


def whole_number(text: str) -> int | None:
    """The number that some digits say; None if they are no digits, or too many."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def shown(image: Image.Image, kind: str = "png", **how: Any) -> Response:
    """An image as an answer."""
    file = io.BytesIO()
    image.save(file, kind, **how or {"compress_level": 1})
    return Response(file.getvalue(), media_type=f"image/{kind}")


# Errors ---------------------------------------------------------------------------------------------------------------


def spoken(request: Request, error: Exception) -> Response:
    """An error of HTTP, as JSON."""
    assert isinstance(error, HTTPException)
    return refused(error.status_code, error.detail)


def explained(request: Request, error: Exception) -> Response:
    """Bad input, or files that cannot be written."""
    cause = error.__cause__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return refused(507 if full else 500 if isinstance(cause, OSError) else 422, str(error))


def gone(request: Request, error: Exception) -> Response:
    """Nobody is left to read the answer."""
    return Response(status_code=400)
