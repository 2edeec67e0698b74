"""Looking into a model that was trained: what its parts recall, attend to and predict, and what can be read off it."""

from jaxlm.interpret.alignments import alignments, plot_alignment
from jaxlm.interpret.memories import Memories, memories, promoted, strongest
from jaxlm.interpret.probes import Probe, linear_probe, nonlinear_probe, streams
from jaxlm.interpret.states import plot_curves, plot_selectivity, selectivity, state_kernel, state_norms

__all__ = [
    "Memories",
    "Probe",
    "alignments",
    "linear_probe",
    "memories",
    "nonlinear_probe",
    "plot_alignment",
    "plot_curves",
    "plot_selectivity",
    "promoted",
    "selectivity",
    "state_kernel",
    "state_norms",
    "streams",
    "strongest",
]
