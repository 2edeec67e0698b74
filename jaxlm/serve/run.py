"""A server that runs: the engine in a thread, uvicorn in front of it, both ended gracefully."""

import contextlib
import ipaddress
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxlm.api.encoder import Encoder
from jaxlm.api.model import LanguageModel
from jaxlm.decode import Engine
from jaxlm.errors import UserError
from jaxlm.serve.state import Limits, Server

GRACE = 30.0  # seconds that texts have to end when the server is stopped
KEEP = 75  # seconds that a connection may be idle: longer than clients wait, so that none is closed as they write


def server_of(
    lm: Any,
    name: str,
    key: str | None = None,
    template: str | None = None,
    limits: Limits = Limits(),
    told: Callable[[int, int], None] = lambda done, total: None,
    **engine: Any,
) -> Server:
    """The server of a loaded model, everything compiled. Raises UserError for an encoder-decoder."""
    if isinstance(lm, Encoder):
        return Server(name, lm, None, key, template, limits)
    if not isinstance(lm, LanguageModel):
        raise UserError(f"{name} is neither a language model nor an encoder: those are served")
    config, layers = lm.prepared()
    tokens = lm.tokenizer.V if lm.tokenizer else None
    made = Engine(config, layers, tokens=tokens, **engine)
    made.warm(told)
    return Server(name, lm, made, key, template, limits)


@contextlib.contextmanager
def running(server: Server, grace: float = GRACE) -> Iterator[None]:
    """Within it the engine runs."""
    if server.engine is None:
        yield
        return
    thread = threading.Thread(target=server.engine.run, name="engine")
    thread.start()
    try:
        yield
    finally:
        server.engine.close(grace)
        thread.join()


def serve(server: Server, host: str, port: int) -> None:
    """Until Ctrl-C or SIGTERM. Raises UserError for an address that others reach where there is no key."""
    import uvicorn

    from jaxlm.serve.app import app

    check_host(host, server.key)
    how = uvicorn.Config(
        app(server),
        host,
        port,
        log_level="warning",
        lifespan="off",
        timeout_keep_alive=KEEP,
        limit_concurrency=server.limits.connections,
        timeout_graceful_shutdown=int(GRACE),
    )
    with running(server):
        uvicorn.Server(how).run()


def check_host(host: str, key: str | None) -> None:
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not key:
        raise UserError(f"--host {host} is reached from outside: give a key, in the variable JAXLM_API_KEY")


def name_of(path: str) -> str:
    return Path(path).resolve().name.removesuffix(".gguf")
