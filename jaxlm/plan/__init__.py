"""What a run costs before it is paid for: memory, FLOPs, exchanges and time, on machines that need not be there."""

from jaxlm.plan.costs import plan, table
from jaxlm.plan.program import decode_program, train_program
from jaxlm.plan.surprises import surprises

__all__ = ["decode_program", "plan", "surprises", "table", "train_program"]
