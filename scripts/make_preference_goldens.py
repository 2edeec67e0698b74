#!/usr/bin/env python3
"""Compute tests/goldens_preference/losses.npz by the very lines of TRL 1.16's trainers; needs trl and torch."""

import inspect
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer import dpo_trainer, grpo_trainer, kto_trainer

FILE = Path(__file__).resolve().parents[1] / "tests/goldens_preference/losses.npz"
rng = np.random.default_rng(11)
B, R, T, G = 8, 8, 9, 4


def lines(module, method: str, first: str, last: str) -> str:
    """The source of a method from the line that has `first` until that with `last`."""
    text = inspect.getsource(getattr(module, method)).split("\n")
    start = next(i for i, line in enumerate(text) if first in line)
    stop = next(i for i, line in enumerate(text) if last in line and i > start)
    return textwrap.dedent("\n".join(text[start:stop]))


def run(module_globals: dict, source: str, **names):
    exec(source, module_globals | names, names)
    return names


chosen, rejected = -rng.gamma(3, 8, B), -rng.gamma(3, 8, B)
lengths = rng.integers(4, 30, (2, B))
given = {
    "chosen": chosen,
    "rejected": rejected,
    "reference_chosen": chosen + rng.normal(0, 4, B),
    "reference_rejected": rejected + rng.normal(0, 4, B),
}
given = {name: x.astype(np.float32) for name, x in given.items()}
found = {**given, "lengths": lengths}
mask = torch.tensor((np.arange(30)[None] < lengths.reshape(-1)[:, None]).astype(np.float32))
source = lines(dpo_trainer.DPOTrainer, "_compute_loss", "# Get the log ratios for", "if self.use_weighting")
source += "\n    out[loss_type] = per_sequence_loss"  # in the loop over forms


def dpo(forms, smoothing=0.0, divergence="reverse_kl"):
    args = SimpleNamespace(discopop_tau=0.05)
    trainer = SimpleNamespace(
        beta=0.1, label_smoothing=smoothing, f_divergence_type=divergence, f_alpha_divergence_coef=0.5, args=args
    )
    trainer.loss_types, trainer.loss_weights = forms, [1.0] * len(forms)
    t = {name: torch.tensor(x) for name, x in given.items()}
    out: dict = {}
    run(
        vars(dpo_trainer),
        source,
        self=trainer,
        chosen_logps=t["chosen"],
        rejected_logps=t["rejected"],
        ref_chosen_logps=t["reference_chosen"],
        ref_rejected_logps=t["reference_rejected"],
        completion_mask=mask,
        device="cpu",
        out=out,
    )
    return out


plain = ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")
for form, x in dpo((*plain, "discopop", "sigmoid_norm")).items():
    found[f"dpo/{form}"] = x.numpy()
for form, x in dpo(("exo_pair", "robust", "aot", "aot_unpaired"), 0.1).items():
    found[f"smooth/{form}"] = x.numpy()
for divergence in ("forward_kl", "js_divergence", "alpha_divergence"):
    found[f"divergence/{divergence}"] = dpo(("sigmoid",), divergence=divergence)["sigmoid"].numpy()

t = {name: torch.tensor(x) for name, x in given.items()}
text = lines(kto_trainer.KTOTrainer, "_compute_loss", "# Chosen losses", "losses = torch.cat(")
for kl in (0.0, 1.7):
    got = run(
        vars(kto_trainer),
        text,
        self=SimpleNamespace(beta=0.1, loss_type="kto", accelerator=SimpleNamespace(device="cpu")),
        chosen_logps=t["chosen"],
        rejected_logps=t["rejected"],
        ref_chosen_logps=t["reference_chosen"],
        ref_rejected_logps=t["reference_rejected"],
        kl=torch.tensor(kl),
    )
    found[f"kto/{kl}"] = torch.cat([got["chosen_losses"], got["rejected_losses"]]).numpy()
means = {"mean_chosen": chosen / lengths[0], "mean_rejected": rejected / lengths[1]}
means = {name: x.astype(np.float32) for name, x in means.items()}
found |= means
trainer = SimpleNamespace(beta=0.1, accelerator=SimpleNamespace(device="cpu"))
pair = [torch.tensor(x) for x in means.values()]
found["orpo"] = -ORPOTrainer.odds_ratio_loss(trainer, *pair)[0].numpy()
trainer = SimpleNamespace(
    beta=0.1, alpha=0.0, label_smoothing=0.1, loss_type="sigmoid", accelerator=trainer.accelerator
)
found["cpo"] = CPOTrainer.cpo_loss(trainer, t["chosen"], t["rejected"])[0].numpy()
trainer = SimpleNamespace(**vars(trainer) | {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0})
trainer.label_smoothing = 0.0
found["simpo"] = CPOTrainer.cpo_loss(trainer, *pair)[0].numpy()

new = -rng.gamma(1, 1, (R, T))
old, reference = new + rng.normal(0, 0.3, (R, T)), new + rng.normal(0, 0.5, (R, T))
count = rng.integers(1, T + 1, R)
rewards = rng.normal(size=R)
policy = {"new": new, "old": old, "reference": reference, "rewards": rewards}
policy = {name: x.astype(np.float32) for name, x in policy.items()}
policy["mask"] = (np.arange(T)[None] < count[:, None]).astype(np.float32)
groups = torch.tensor(policy["rewards"]).view(-1, G)
advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).view(-1)
found |= policy | {"advantages": advantages.numpy()}
text = lines(grpo_trainer.GRPOTrainer, "_compute_loss", "log_ratio = per_token_logps", "# Entropy bonus: add")


for kind in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo"):
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    trainer = SimpleNamespace(
        beta=0.04,
        epsilon_low=0.2,
        epsilon_high=1.1 if kind == "cispo" else 0.3,
        loss_type="grpo" if kind == "gspo" else kind,
        importance_sampling_level="sequence" if kind == "gspo" else "token",
        args=args,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        use_vllm=False,
        max_completion_length=T,
        current_gradient_accumulation_steps=1,
        accelerator=SimpleNamespace(num_processes=1),
    )
    p = {name: torch.tensor(x) for name, x in policy.items()}
    inputs = dict(ref_per_token_logps=p["reference"], num_items_in_batch=p["mask"].sum())
    new_t = p["new"].clone().requires_grad_()
    got = run(
        vars(grpo_trainer),
        text,
        self=trainer,
        inputs=inputs,
        per_token_logps=new_t,
        old_per_token_logps=p["old"],
        mask=p["mask"],
        advantages=advantages.unsqueeze(1),
        entropy_mask=None,
    )
    got["loss"].backward()
    found[f"policy/{kind}"], found[f"policy_grad/{kind}"] = got["loss"].detach().numpy(), new_t.grad.numpy()
np.savez_compressed(FILE, **found)
