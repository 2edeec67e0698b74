"""Serving: the engine behind OpenAI's routes, and a page. Needs the extra `serve` (starlette, uvicorn)."""

from jaxlm.serve.run import running, serve, server_of
from jaxlm.serve.state import Limits, Server

__all__ = ["Limits", "Server", "running", "serve", "server_of"]
