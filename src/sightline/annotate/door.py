"""Who may come in: one-time links become sessions, and nothing is answered to anybody else."""

import secrets
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

WELCOME = (
    '<!doctype html><meta charset="utf-8"><title>sightline</title><link rel="icon" href="/static/icon.svg">'
    '<a href="/">Go to the images</a>'
)

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Door:
    """Links that work once, and the sessions they opened, for a server at `host`:`port`."""

    def __init__(self, host: str, port: int) -> None:
        names = LOOPBACK if host in LOOPBACK else (host,)
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        self.address = f"http://{host}:{port}/"
        # Cookies know no ports: two servers of one machine must not overwrite each other's.
        self.cookie = f"sightline-{port}"
        self.tokens: set[str] = set()
        self.sessions: dict[str, str] = {}

    def link(self) -> str:
        """A new address that lets one person in."""
        token = secrets.token_urlsafe(24)
        self.tokens.add(token)
        return f"{self.address}?{urlencode({'token': token})}"

    def open(self, token: str) -> str | None:
        """The session a token opens, once; None if it opens none."""
        if token not in self.tokens:
            return None
        self.tokens.remove(token)
        session = secrets.token_urlsafe(32)
        self.sessions[session] = f"person {len(self.sessions) + 1}"
        return session

    def person(self, request: Request) -> str | None:
        """Whose session a request belongs to."""
        return self.sessions.get(request.cookies.get(self.cookie, ""))

    def refusal(self, request: Request) -> Response | None:
        """Why a request is not answered; None if it is."""
        if request.headers.get("host", "") not in self.hosts:
            return refused(403, f"this server answers at {self.address} only.")
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            return refused(400, "the length of the request is told in two ways.")
        if self.person(request) is None:
            return refused(403, "open the link that sightline printed; each works once. Enter prints another.")
        if request.method not in ("GET", "HEAD") and not self.own(request):
            return refused(403, "the request comes from another page.")
        return None

    def own(self, request: Request) -> bool:
        """Whether a request comes from the page that this server served."""
        return request.headers.get("origin") == f"http://{request.headers['host']}"

    def welcome(self, request: Request) -> Response | None:
        """The answer to a link that works; None to every other request."""
        if request.method != "GET" or request.url.path != "/" or request.headers.get("host", "") not in self.hosts:
            return None
        session = self.open(request.query_params.get("token", ""))
        if session is None:
            return None
        # A redirection would go on in the name of the page the link stood on, which gets no strict cookie.
        response = HTMLResponse(WELCOME, headers={"Refresh": "0; url=/"})
        response.set_cookie(self.cookie, session, httponly=True, samesite="strict")
        return response


class Gate:
    """An application behind a door."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        answer = self.door.welcome(request) or self.door.refusal(request) or self.app

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        await answer(scope, receive, secured)


def refused(status: int, error: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": error}, status)
