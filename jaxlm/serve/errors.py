"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} with a status."""

from typing import Any


class ApiError(Exception):
    """What a client is told. 429 and 503 may be tried again; `after` says when."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, after: int = 0):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.after = status, message, param, code, after

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.after)} if self.after else {}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A client's mistake."""
    return ApiError(400, message, param, code)
