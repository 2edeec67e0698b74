"""The key that somebody meant: the fields of a config by the names that other programs give them."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxlm.config_tree import join, renamed, unknown_key
from jaxlm.errors import UserError, nearest

BLOCK = "model.layers.*.blocks.*"
# What other programs call a field, or a value of it: lower case, "_" for "-"; a name with dots is tried before its end.
_USUAL = {
    "optimizer.learning_rate": "lr max_lr peak_lr base_lr",
    "optimizer.weight_decay": "wd",
    "optimizer.warmup": "warmup_steps warmup_iters num_warmup_steps lr_warmup_steps",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule",
    "optimizer.name": "optim optimizer_name optimizer_type",
    "optimizer.clip": "max_grad_norm grad_clip gradient_clipping gradient_clip_val grad_clip_norm clip_norm",
    "optimizer.final": "min_lr_ratio final_lr_frac",
    "steps": (
        "max_steps train_steps num_steps total_steps n_steps num_train_steps training_steps max_iters "
        "num_iterations iterations iters"
    ),
    "batch": (
        "batch_size bs train_batch_size global_batch_size total_batch_size per_device_train_batch_size "
        "per_device_batch_size device_batch_size micro_batch_size"
    ),
    "accumulate": (
        "gradient_accumulation_steps gradient_accumulation grad_accum_steps grad_accum accumulate_grad_batches "
        "accumulation_steps"
    ),
    "data.T": (
        "seq_len seq_length sequence_length sequence_len max_seq_len max_seq_length max_sequence_length "
        "max_length block_size context_length context_size context_len ctx_len n_ctx max_target_length"
    ),
    "data.sources.0.path": (
        "data.path data.paths data.dataset data.file data.files data.source data_path data_dir data_file "
        "data_files dataset dataset_path dataset_name train_file train_data text file input source path"
    ),
    "data.sources.0.weight": "data.weights",
    "data.sources.0.field": "text_column column",
    "data.holdout": "val_split validation_split test_size",
    "data.tokenizer.path": "tokenizer_path tokenizer_name",
    "data.cache": "cache_dir",
    "model.V": "vocab_size n_vocab",
    "model.D": "hidden_size hidden_dim d_model n_embd n_embed embed_dim embedding_dim model_dim emb_dim dim width",
    "model.layers.0.repeat": "num_layers num_hidden_layers n_layer n_layers layers depth repeats",
    f"{BLOCK}.mixer.H": "num_heads num_attention_heads n_head n_heads heads",
    f"{BLOCK}.mixer.G": "num_key_value_heads num_kv_heads n_kv_heads n_kv_head",
    f"{BLOCK}.mixer.K": "head_dim head_size",
    f"{BLOCK}.mixer.window": "sliding_window",
    f"{BLOCK}.mixer.rope.base": "rope_theta theta",
    f"{BLOCK}.ffn.F": "intermediate_size d_ff ffn_dim mlp_dim",
    f"{BLOCK}.ffn.activation": "hidden_act activation_function",
    f"{BLOCK}.mixer.dropout": "attention_dropout",
    f"{BLOCK}.dropout": "resid_pdrop",
    "model.dropout": "embd_pdrop",
    "model.tied": "tie_word_embeddings tie_embeddings",
    "model.dtype": "precision mixed_precision torch_dtype compute_dtype",
    "model.dtype=bfloat16": "bf16",
    "model.remat=full": "gradient_checkpointing activation_checkpointing",
    "objective.label_smoothing": "label_smoothing_factor",
    "ema": "ema_decay",
    "log_every": "logging_steps log_interval log_freq",
    "eval_every": "eval_steps eval_interval eval_freq val_every",
    "save_every": "save_steps save_interval checkpoint_every checkpoint_interval",
    "max_to_keep": "save_total_limit",
    "epochs": "num_epochs num_train_epochs n_epochs epoch max_epochs",
    "writers": "report_to logger",
    "prompts": "prompt",
    "seed": "random_seed",
    "mesh.tensor": "tp tensor_parallel tensor_parallel_size",
    "mesh.data": "dp data_parallel",
    "mesh.stage": "pp pipeline_parallel",
    "mesh.expert": "ep expert_parallel",
    "mesh.context": "cp context_parallel",
}
USUAL = {name: path for path, names in _USUAL.items() for name in names.split()}
# What is no field, and how it is said.
_ELSEWHERE = {
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
    if now := _now(tree, key):
        return UserError(
            f"unknown key {key!r}: did you mean {now!r}?", right=f"{now}={value}", wrong=(f"{key}={value}",)
        )
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


def _now(tree: Any, key: str) -> str:
    """`key` where its fields had other names, as they are called now; "" where that leads nowhere."""
    nodes, path = [tree], []
    for part in key.split("."):
        former = {
            old: new
            for node in nodes
            if isinstance(node, dict) and "type" in node
            for old, new in renamed(node["type"]).items()
        }
        for name in former.get(part, part).split("."):
            nodes, path = [one for node in nodes for one in _below(node, name)], [*path, name]
    return ".".join(path) if nodes else ""


def _below(node: Any, part: str) -> list[Any]:
    if isinstance(node, list):
        return node if part == "*" else [node[int(part)]] if part.isdecimal() and int(part) < len(node) else []
    return [node[part]] if isinstance(node, dict) and part in node else []


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
