"""The routes: OpenAI's, the page, health and metrics; keys, limits and errors around them."""

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import Coroutine
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from jaxlm.errors import UserError
from jaxlm.serve import asked, constraints, responses
from jaxlm.serve.chat import Chat
from jaxlm.serve.completions import Completion
from jaxlm.serve.errors import ApiError, bad
from jaxlm.serve.metrics import Metrics
from jaxlm.serve.state import Server

OPEN = "/", "/health"  # without a key


def app(server: Server) -> Any:
    """The ASGI application of a server, whose engine somebody else runs."""
    metrics = Metrics(server)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": server.name})

    async def page(request: Request) -> Response:
        html = resources.files("jaxlm.serve").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(html.replace("{{model}}", server.name.replace("<", "&lt;")))

    async def told(request: Request) -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(server, name) for name in server.names]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model(server, server.called({"model": request.path_params["name"]})))

    async def embeddings(request: Request) -> Response:
        body = await _body(request, server)
        return JSONResponse(await asyncio.to_thread(_embeddings, server, body))

    def writes(kind: Any) -> Any:
        async def route(request: Request) -> Response:
            body = await _body(request, server)
            server.writes()
            compiled = await asyncio.to_thread(constraints.compiled, server, body)
            one = kind(server, body, compiled)
            if one.stream:
                return Events(one, metrics)
            return JSONResponse(await _while_there(request.receive, one, metrics, one.whole()))

        return route

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/metrics", told),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/completions", writes(Completion), methods=["POST"]),
        Route("/v1/chat/completions", writes(Chat), methods=["POST"]),
        Route("/v1/responses", writes(responses.Answer), methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]
    inner = Starlette(routes=routes, exception_handlers={ApiError: _error, UserError: _user, HTTPException: _http})
    return Guard(inner, server, metrics)


STREAMED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Guard:
    """Around all routes: the key, the time, an id for each answer, and errors that nobody expected."""

    def __init__(self, inner: Any, server: Server, metrics: Metrics):
        self.inner, self.server, self.metrics = inner, server, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        begun, began = False, time.monotonic()

        async def tell(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.metrics.answered(scope["path"], message["status"])
                message["headers"] = [*message["headers"], (b"x-request-id", uuid.uuid4().hex.encode())]
            await send(message)

        try:
            if not self._may(scope):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
            async with asyncio.timeout(self.server.limits.seconds):
                return await self.inner(scope, receive, tell)
        except ApiError as error:
            trouble = error
        except TimeoutError:
            trouble = ApiError(504, f"not done after {time.monotonic() - began:.0f} s", code="timeout")
        except Exception as error:
            trouble = ApiError(500, f"the server failed: {type(error).__name__}")
            if begun:
                raise
        if not begun:
            await JSONResponse(trouble.body, trouble.status, trouble.headers)(scope, receive, tell)

    def _may(self, scope: Any) -> bool:
        if self.server.key is None or scope["path"] in OPEN:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        return hmac.compare_digest(given, self.server.key.encode())


async def _body(request: Request, server: Server) -> asked.Body:
    """The JSON object of the body, no more of which is read than the limit."""
    limit, data = server.limits.body, bytearray()
    size = request.headers.get("content-length", "0")
    too_large = ApiError(413, f"the body has more than {limit} bytes", code="body_too_large")
    if size.isdecimal() and int(size) > limit:
        raise too_large
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise too_large
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise bad("the body is not JSON") from None
    if not isinstance(body, dict):
        raise bad("the body must be a JSON object")
    if not isinstance(body.get("stream_options") or {}, dict):
        raise bad("stream_options must be an object", "stream_options")
    server.adapter(body)
    return body


class Events(Response):
    """Server-sent events; an error after the first becomes one of them."""

    def __init__(self, one: Any, metrics: Metrics):
        super().__init__(headers=STREAMED, media_type="text/event-stream")
        self.one, self.metrics = one, metrics
        del self.headers["content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await _while_there(receive, self.one, self.metrics, self._write(send))

    async def _write(self, send: Any) -> None:
        say = lambda text, more=True: send({"type": "http.response.body", "body": text.encode(), "more_body": more})
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self.one.chunks():
                kind = f"event: {chunk['type']}\n" if "type" in chunk else ""
                await say(f"{kind}data: {json.dumps(chunk, ensure_ascii=False)}\n\n")
            await say("data: [DONE]\n\n", False)
        except ApiError as error:
            await say(f"data: {json.dumps(error.body)}\n\n", False)


async def _while_there(receive: Any, one: Any, metrics: Metrics, work: Coroutine[Any, Any, Any]) -> Any:
    """What the work gives; where the client leaves, or all takes too long, its texts end and free their rows."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        one.cancel()
        metrics.wrote(one.writings)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _embeddings(server: Server, body: asked.Body) -> dict[str, Any]:
    import base64

    import numpy as np

    if not hasattr(server.lm, "embed"):
        raise bad(f"{server.name!r} is no encoder: it has no embeddings of texts", "model")
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
        raise bad("input must be a text, or a list of texts, that are not empty", "input")
    if len(texts) > 2048:
        raise bad(f"at most 2048 texts, got {len(texts)}", "input")
    form = body.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise bad('encoding_format must be "float" or "base64"', "encoding_format")
    with server.lock:
        found = np.asarray(server.lm.embed(texts), np.float32)
    coded = lambda x: x.tolist() if form == "float" else base64.b64encode(x.tobytes()).decode()
    data = [{"object": "embedding", "index": i, "embedding": coded(x)} for i, x in enumerate(found)]
    count = sum(map(len, server.lm.tokenizer.encode_batch(texts, special=True)))
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": server.name, "usage": usage}


def _model(server: Server, name: str) -> dict[str, Any]:
    length = server.engine.slots if server.engine else None
    return {
        "id": name,
        "object": "model",
        "created": server.created,
        "owned_by": "jaxlm",
        "max_model_len": length,
    }


async def _error(request: Request, error: Any) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _user(request: Request, error: Any) -> Response:
    return await _error(request, bad(str(error)))


async def _http(request: Request, error: Any) -> Response:
    what = {404: f"there is no {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
    return await _error(request, ApiError(error.status_code, what.get(error.status_code, str(error.detail))))
