"""Checkpoints of a run: saved in the background, verified when read, the newest whole one found again."""

from jaxlm.checkpoints.checkpoint import Checkpoints, folders, load_params, steps

__all__ = ["Checkpoints", "folders", "load_params", "steps"]
