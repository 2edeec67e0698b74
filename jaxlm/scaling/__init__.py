"""Scaling laws: what models cost, what their losses follow, what to train next."""

from jaxlm.scaling.accounting import Matrix, Part, chinchilla_flops, matrices, parts, summary
from jaxlm.scaling.fitting import Estimate, Fit, fit
from jaxlm.scaling.forms import ChinchillaForm, KaplanForm
from jaxlm.scaling.isoflops import IsoFLOPs, PowerLaw, Valley, fit_isoflops
from jaxlm.scaling.law import BESIROGLU, HOFFMANN, Allocation, Chinchilla, Kaplan
from jaxlm.scaling.planning import Size, budget, optimum, serve, sweep
from jaxlm.scaling.runs import Runs, read

__all__ = [
    "BESIROGLU",
    "HOFFMANN",
    "Allocation",
    "Chinchilla",
    "ChinchillaForm",
    "Estimate",
    "Fit",
    "IsoFLOPs",
    "Kaplan",
    "KaplanForm",
    "Matrix",
    "Part",
    "PowerLaw",
    "Runs",
    "Size",
    "Valley",
    "budget",
    "chinchilla_flops",
    "fit",
    "fit_isoflops",
    "matrices",
    "optimum",
    "parts",
    "read",
    "serve",
    "summary",
    "sweep",
]
