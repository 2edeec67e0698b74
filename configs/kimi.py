"""Kimi K2 (Moonshot AI 2025, arXiv 2507.20534): DeepSeek-V3's architecture with more experts and fewer heads."""

from jaxlm.run import RunConfig

from ._pretrain import pretrain
from .deepseek import V3, model, yarn

K2 = {
    **V3,
    "rope_theta": 50_000.0,
    "rope_scaling": yarn(32.0, mscale=1.0, beta_fast=1.0),
    "max_position_embeddings": 131_072,
    "first_k_dense_replace": 1,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
}


def kimi_k2() -> RunConfig:
    """Kimi K2, 61 x 7168, 8 of 384 experts: 1,026,408,232,448 parameters, 32.9B active (arXiv 2507.20534).

        jaxlm train kimi_k2 'data.sources.0.path=my_text/*.txt'

    Training state of 16,400 GB: from 512 devices of 80 GB. Trained on 15.5T tokens: about 89,000 H100-days. Moonshot
    used Muon with clipped queries and keys (MuonClip), not AdamW as here.
    """
    return pretrain(
        model("kimi_k2", N=61, D=7168, F=18432, H=64, V=163_840, q_rank=1536, **K2),
        T=4096,
        tokens=1.55e13,
        batch=16384,
        learning_rate=2e-4,
    )
