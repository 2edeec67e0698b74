"""Looking into a model that was trained: what its parts recall, attend to and predict."""

from jaxlm.interpret.alignments import alignments, plot_alignment
from jaxlm.interpret.memories import Memories, memories, promoted, strongest

__all__ = ["Memories", "alignments", "memories", "plot_alignment", "promoted", "strongest"]
