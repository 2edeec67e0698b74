"""What a run costs before it is paid for: memory, FLOPs, collectives and time, on machines that need not be there."""

from jaxlm.plan.costs import plan, table
from jaxlm.plan.program import decode_program, train_program
from jaxlm.plan.unexpected_collectives import unexpected_collectives

__all__ = ["decode_program", "plan", "table", "train_program", "unexpected_collectives"]
