"""The public harness says of a checkpoint what its own backend says and what our tasks say: six of local files."""

import json
import math
import random

import pytest

import jaxlm
from jaxlm.evals.harness import adapter
from jaxlm.evals.local import Local
from jaxlm.evals.run import evaluate
from jaxlm.evals.tasks import task

pytest.importorskip("lm_eval", reason="needs the public harness: pip install 'jaxlm[lm-eval]'")
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["the", "cat", "dog", "sat", "on", "a", "mat", "and", "ran", "to", "red", "house", "1", "2", "3", "of"]
RNG = random.Random(0)


def text(n):
    return " ".join(RNG.choices(WORDS, k=n))


MC = {
    "output_type": "multiple_choice",
    "target_delimiter": " ",
    "metric_list": [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")],
}
ROWS = {
    "choices": [{"query": text(6), "choices": [text(2), text(4), text(3)], "gold": RNG.randrange(3)} for _ in range(8)],
    "arc": [
        {
            "question": text(7),
            "choices": {"text": [text(2), text(1)], "label": ["A", "B"]},
            "answerKey": RNG.choice("AB"),
        }
        for _ in range(8)
    ],
    "mmlu": [{"question": text(7), "choices": [text(2) for _ in "ABCD"], "answer": RNG.randrange(4)} for _ in range(8)],
    "lambada": [{"context": text(30), "continuation": RNG.choice(WORDS)} for _ in range(8)],
    "text": [{"text": text(n)} for n in (3, 40, 90, 150)],
    "gsm8k": [{"question": text(9), "answer": "x #### 2"} for _ in range(4)],
}
STRICT = {
    "name": "strict",
    "filter": [{"function": "regex", "regex_pattern": "(-?[0-9]+)"}, {"function": "take_first"}],
}
FORMS = {
    "choices": {"doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold", **MC},
    "arc": {
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices.text}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        **MC,
    },
    "mmlu": {
        "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"],
        "doc_to_target": "answer",
        **MC,
    },
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": " {{continuation}}",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean"},
            {"metric": "perplexity", "aggregation": "perplexity"},
        ],
    },
    "text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "gsm8k": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "2",
        "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
        "filter_list": [STRICT],
    },
}


def checkpoint(folder):
    import tokenizers
    import torch

    torch.manual_seed(0)
    bare = tokenizers.Tokenizer(tokenizers.models.BPE())
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator([text(400)], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<eos>", bos_token="<eos>")
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=fast.eos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def write(folder):
    import yaml

    for name, rows in ROWS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"test": str(path)}
        said = {"task": f"own_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
        said |= {"test_split": "test", "num_fewshot": 0, "metadata": {"version": 1}, **FORMS[name]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(said))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_equal_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    checkpoint(tmp_path)
    write(tmp_path)
    local = Local(jaxlm.load(tmp_path), "tiny", batch=4, length=64)
    theirs = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=4, max_length=64)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    names = [f"own_{name}" for name in ROWS]
    run = lambda model: lm_eval.simple_evaluate(
        model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    ours, want = run(adapter(local)), run(theirs)
    for name in names:
        for key, value in want["results"][name].items():
            if isinstance(value, float):
                assert ours["results"][name][key] == pytest.approx(value, rel=1e-5), (name, key)
        for a, b in zip(ours["samples"][name], want["samples"][name]):
            for x, y in zip(_flat(a["filtered_resps"]), _flat(b["filtered_resps"]), strict=True):
                assert x == (pytest.approx(y, abs=1e-4) if isinstance(y, float) else y), (name, x, y)
    own = evaluate(local, [task(name, tmp_path / f"{name}.jsonl") for name in ROWS if name != "gsm8k"])
    for name, metric in (
        ("choices", "acc"),
        ("choices", "acc_norm"),
        ("arc", "acc"),
        ("mmlu", "acc"),
        ("lambada", "acc"),
    ):
        assert own[name, metric] == want["results"][f"own_{name}"][f"{metric},none"], (name, metric)
    assert own["text", "bits_per_byte"] == pytest.approx(want["results"]["own_text"]["bits_per_byte,none"], rel=1e-5)
    assert math.exp(own["lambada", "nll"]) == pytest.approx(want["results"]["own_lambada"]["perplexity,none"], rel=1e-4)


def _flat(given):
    if isinstance(given, list | tuple):
        return [x for one in given for x in _flat(one)]
    return [float(given)] if isinstance(given, int | float) and not isinstance(given, bool) else [str(given)]
