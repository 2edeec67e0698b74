"""The key that somebody meant: the fields of a config by the names that other programs give them."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxlm.config_tree import join, unknown_key
from jaxlm.errors import UserError, nearest

BLOCK = "model.segments.*.blocks.*"
# Path, or path=value where the value is another: lower case, "_" for "-". A path with dots is tried before its end.
USUAL = {
    "lr": "optimizer.learning_rate",
    "max_lr": "optimizer.learning_rate",
    "peak_lr": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "warmup_steps": "optimizer.warmup",
    "warmup_iters": "optimizer.warmup",
    "num_warmup_steps": "optimizer.warmup",
    "lr_warmup_steps": "optimizer.warmup",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "scheduler": "optimizer.schedule",
    "lr_schedule": "optimizer.schedule",
    "optim": "optimizer.name",
    "optimizer_name": "optimizer.name",
    "optimizer_type": "optimizer.name",
    "max_grad_norm": "optimizer.clip",
    "grad_clip": "optimizer.clip",
    "gradient_clipping": "optimizer.clip",
    "gradient_clip_val": "optimizer.clip",
    "grad_clip_norm": "optimizer.clip",
    "clip_norm": "optimizer.clip",
    "min_lr_ratio": "optimizer.final",
    "final_lr_frac": "optimizer.final",
    "max_steps": "steps",
    "train_steps": "steps",
    "num_steps": "steps",
    "total_steps": "steps",
    "n_steps": "steps",
    "num_train_steps": "steps",
    "training_steps": "steps",
    "max_iters": "steps",
    "num_iterations": "steps",
    "iterations": "steps",
    "iters": "steps",
    "batch_size": "batch",
    "bs": "batch",
    "train_batch_size": "batch",
    "global_batch_size": "batch",
    "total_batch_size": "batch",
    "per_device_train_batch_size": "batch",
    "per_device_batch_size": "batch",
    "device_batch_size": "batch",
    "micro_batch_size": "batch",
    "gradient_accumulation_steps": "accumulate",
    "gradient_accumulation": "accumulate",
    "grad_accum_steps": "accumulate",
    "grad_accum": "accumulate",
    "accumulate_grad_batches": "accumulate",
    "accumulation_steps": "accumulate",
    "seq_len": "data.T",
    "seq_length": "data.T",
    "sequence_length": "data.T",
    "sequence_len": "data.T",
    "max_seq_len": "data.T",
    "max_seq_length": "data.T",
    "max_sequence_length": "data.T",
    "max_length": "data.T",
    "block_size": "data.T",
    "context_length": "data.T",
    "context_size": "data.T",
    "context_len": "data.T",
    "ctx_len": "data.T",
    "n_ctx": "data.T",
    "max_target_length": "data.T",
    "data.path": "data.sources.0.path",
    "data.paths": "data.sources.0.path",
    "data.dataset": "data.sources.0.path",
    "data.file": "data.sources.0.path",
    "data.files": "data.sources.0.path",
    "data.source": "data.sources.0.path",
    "data_path": "data.sources.0.path",
    "data_dir": "data.sources.0.path",
    "data_file": "data.sources.0.path",
    "data_files": "data.sources.0.path",
    "dataset": "data.sources.0.path",
    "dataset_path": "data.sources.0.path",
    "dataset_name": "data.sources.0.path",
    "train_file": "data.sources.0.path",
    "train_data": "data.sources.0.path",
    "text": "data.sources.0.path",
    "file": "data.sources.0.path",
    "input": "data.sources.0.path",
    "source": "data.sources.0.path",
    "path": "data.sources.0.path",
    "data.weights": "data.sources.0.weight",
    "text_column": "data.sources.0.field",
    "column": "data.sources.0.field",
    "val_split": "data.holdout",
    "validation_split": "data.holdout",
    "test_size": "data.holdout",
    "tokenizer_path": "data.tokenizer.path",
    "tokenizer_name": "data.tokenizer.path",
    "cache_dir": "data.cache",
    "vocab_size": "model.V",
    "n_vocab": "model.V",
    "hidden_size": "model.D",
    "hidden_dim": "model.D",
    "d_model": "model.D",
    "n_embd": "model.D",
    "n_embed": "model.D",
    "embed_dim": "model.D",
    "embedding_dim": "model.D",
    "model_dim": "model.D",
    "emb_dim": "model.D",
    "dim": "model.D",
    "width": "model.D",
    "num_layers": "model.segments.0.repeat",
    "num_hidden_layers": "model.segments.0.repeat",
    "n_layer": "model.segments.0.repeat",
    "n_layers": "model.segments.0.repeat",
    "layers": "model.segments.0.repeat",
    "depth": "model.segments.0.repeat",
    "repeats": "model.segments.0.repeat",
    "num_heads": f"{BLOCK}.mixer.H",
    "num_attention_heads": f"{BLOCK}.mixer.H",
    "n_head": f"{BLOCK}.mixer.H",
    "n_heads": f"{BLOCK}.mixer.H",
    "heads": f"{BLOCK}.mixer.H",
    "num_key_value_heads": f"{BLOCK}.mixer.G",
    "num_kv_heads": f"{BLOCK}.mixer.G",
    "n_kv_heads": f"{BLOCK}.mixer.G",
    "n_kv_head": f"{BLOCK}.mixer.G",
    "head_dim": f"{BLOCK}.mixer.K",
    "head_size": f"{BLOCK}.mixer.K",
    "sliding_window": f"{BLOCK}.mixer.window",
    "rope_theta": f"{BLOCK}.mixer.rope.base",
    "theta": f"{BLOCK}.mixer.rope.base",
    "intermediate_size": f"{BLOCK}.ffn.F",
    "d_ff": f"{BLOCK}.ffn.F",
    "ffn_dim": f"{BLOCK}.ffn.F",
    "mlp_dim": f"{BLOCK}.ffn.F",
    "hidden_act": f"{BLOCK}.ffn.activation",
    "activation_function": f"{BLOCK}.ffn.activation",
    "attention_dropout": f"{BLOCK}.mixer.dropout",
    "resid_pdrop": f"{BLOCK}.dropout",
    "embd_pdrop": "model.dropout",
    "tie_word_embeddings": "model.tied",
    "tie_embeddings": "model.tied",
    "precision": "model.dtype",
    "mixed_precision": "model.dtype",
    "torch_dtype": "model.dtype",
    "compute_dtype": "model.dtype",
    "bf16": "model.dtype=bfloat16",
    "gradient_checkpointing": "model.remat=full",
    "activation_checkpointing": "model.remat=full",
    "label_smoothing_factor": "label_smoothing",
    "ema_decay": "ema",
    "logging_steps": "log_every",
    "log_interval": "log_every",
    "log_freq": "log_every",
    "eval_steps": "eval_every",
    "eval_interval": "eval_every",
    "eval_freq": "eval_every",
    "val_every": "eval_every",
    "save_steps": "save_every",
    "save_interval": "save_every",
    "checkpoint_every": "save_every",
    "checkpoint_interval": "save_every",
    "save_total_limit": "keep",
    "max_to_keep": "keep",
    "report_to": "writers",
    "logger": "writers",
    "prompt": "prompts",
    "random_seed": "seed",
    "tp": "mesh.tensor",
    "dp": "mesh.data",
    "pp": "mesh.stage",
    "ep": "mesh.expert",
    "cp": "mesh.context",
    "tensor_parallel": "mesh.tensor",
    "tensor_parallel_size": "mesh.tensor",
    "data_parallel": "mesh.data",
    "pipeline_parallel": "mesh.stage",
    "expert_parallel": "mesh.expert",
    "context_parallel": "mesh.context",
}
# What is no field, and how it is said.
_ELSEWHERE = {
    "epochs num_epochs num_train_epochs n_epochs epoch max_epochs": (
        "a run is as long as its steps, each of batch rows of data.T tokens: set steps"
    ),
    "betas beta1 beta2 adam_beta1 adam_beta2 b1 b2 eps adam_epsilon momentum": (
        'the optimizer\'s own options are set together: optimizer.options={"b1": 0.9, "b2": 0.95}'
    ),
    "output_dir out_dir out run run_name save_dir checkpoint_dir logdir": (
        "the folder of a run is an option: --run FOLDER"
    ),
    "warmup_ratio": "warmup is in steps: set optimizer.warmup",
    "resume resume_from_checkpoint resume_from init_from": (
        "the same command on an existing run goes on there: --run FOLDER"
    ),
    "device platform accelerator": "set JAX_PLATFORMS=cpu in the environment, or cuda or tpu",
}
ELSEWHERE = {name: said for names, said in _ELSEWHERE.items() for name in names.split()}
ALIKE = 0.75  # how like a name elsewhere must be to be offered before the keys beside


def misnamed(tree: Any, path: str, part: str, known: Sequence[str], key: str, value: str) -> UserError:
    """The error for an override `key=value` of the config with the plain form `tree`, which has no `part` below `path`,
    where the keys are `known`."""
    if found := meant(tree, key, known):
        right = found[0] if "=" in found[0] else f"{found[0]}={value}"
        also = f" (also {', '.join(found[1:3])})" if found[1:] else ""
        message = f"unknown key {key!r}: did you mean {found[0]!r}?{also}"
        return UserError(message, right=right, wrong=(f"{key}={value}",))
    if said := ELSEWHERE.get(_usual(key.rpartition(".")[2])):
        return UserError(f"unknown key {key!r}: {said}")
    near, (above, below) = nearest(part, known), _around(key, path)
    right = ".".join([*above, near, *below]) if _likeness(part, near) >= ALIKE else ""
    return UserError(str(unknown_key(path, part, known)), right=right and f"{right}={value}", wrong=(f"{key}={value}",))


def _around(key: str, path: str) -> tuple[list[str], list[str]]:
    """The parts of `key` before and after the one that is not there below `path`."""
    parts, depth = key.split("."), path.count(".") + 1 if path else 0
    return parts[:depth], parts[depth + 1 :]


def meant(tree: Any, key: str, beside: Sequence[str] = ()) -> list[str]:
    """The paths below the plain form `tree` that `key` probably means, the likeliest first: those that end with its
    name or its usual spelling, else those that are alike, and more so than what stands `beside`."""
    paths = sorted(set(_paths(tree)), key=lambda path: (path.count("."), path))
    name = _usual(key.rpartition(".")[2])
    for spelled in (_usual(key), name):
        target = USUAL.get(spelled, "")
        if _generic(target.partition("=")[0]) in paths:
            return [target]
    above = set(key.lower().split("."))
    ends = [path for path in paths if path.rpartition(".")[2].lower() == name]
    if ends:  # those below what the key names too come first
        return sorted(ends, key=lambda path: -len(above & set(path.lower().split("."))))
    near = {path: _likeness(name, path.rpartition(".")[2]) for path in paths}
    best = max(near, key=lambda path: near[path], default="")
    if best and near[best] >= max(ALIKE, 0.1 + max((_likeness(name, other) for other in beside), default=0)):
        return [best]
    return []


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word[:80].lower(), other.lower()).ratio()


def _usual(name: str) -> str:
    return name.lower().replace("-", "_").removeprefix("training_args.")


def _generic(path: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def _paths(tree: Any, path: str = "") -> Iterator[str]:
    """Every path below a plain form, with "*" for the entries of tuples."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name != "type":
                yield join(path, name)
                yield from _paths(value, join(path, name))
    elif isinstance(tree, list):
        for value in tree:
            yield from _paths(value, join(path, "*"))
