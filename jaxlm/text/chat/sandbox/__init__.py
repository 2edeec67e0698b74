"""Runs templates that nobody has read: in bounded time and memory, and every failure one clear line."""

from jaxlm.text.chat.sandbox.program import Program, compiled

__all__ = ["Program", "compiled"]
