"""Looking into a model that was trained: what its parts recall, attend to and predict, and what can be read off it."""

from jaxlm.interpret.alignments import alignments, plot_alignment
from jaxlm.interpret.lens import (
    Lens,
    attention_maps,
    induction_scores,
    logit_lens,
    plot_heads,
    plot_lens,
    repeated_gain,
)
from jaxlm.interpret.memories import Memories, memories, promoted, strongest
from jaxlm.interpret.probes import Probe, linear_probe, nonlinear_probe, streams
from jaxlm.interpret.states import plot_curves, plot_selectivity, selectivity, state_kernel, state_norms

__all__ = [
    "Lens",
    "Memories",
    "Probe",
    "alignments",
    "attention_maps",
    "induction_scores",
    "linear_probe",
    "logit_lens",
    "memories",
    "nonlinear_probe",
    "plot_alignment",
    "plot_curves",
    "plot_heads",
    "plot_lens",
    "plot_selectivity",
    "promoted",
    "repeated_gain",
    "selectivity",
    "state_kernel",
    "state_norms",
    "streams",
    "strongest",
]
