import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from jaxlm import cli, config
from jaxlm.convert import lm_config
from jaxlm.decode import cache
from jaxlm.plan import plan, table
from jaxlm.run import RunConfig
from jaxlm.sharding import make_mesh
from jaxlm.train.setup import Setup
from tests import tiny
from tests.convert import checkpoints, golden_families
from tests.convert.checkpoints import LLAMA

HUGE = [  # GPT-3's size
    "model.D=12288",
    "model.layers.0.repeat=96",
    "model.layers.0.blocks.0.mixer.H=96",
    "model.layers.0.blocks.0.mixer.K=128",
    "model.layers.0.blocks.0.ffn.F=49152",
]


def test_plan_of_gpt2_as_json(capsys):
    assert cli.main(["plan", "gpt2_124m", "--json"]) == 0
    out = capsys.readouterr().out
    facts = json.loads(out)
    assert out.count("\n") == 1
    assert facts["params"] == facts["active_params"] == 124_439_808
    assert facts["flops_per_token"] == 3 * facts["forward_flops_per_token"] == 797_815_296
    assert facts["params_bytes"] == facts["gradient_bytes"] == 4 * facts["params"]
    assert facts["optimizer_bytes"] == pytest.approx(2 * facts["params_bytes"], rel=1e-4)
    assert facts["cache_bytes_per_token"] == 2 * 12 * 768 * 4
    assert facts["cache_bytes_per_text"] == 1024 * facts["cache_bytes_per_token"]
    assert facts["train_flops"] == facts["train_tokens"] * facts["flops_per_token"]
    assert facts["train_tokens"] == facts["steps"] * facts["tokens_per_step"] == 20_000 * 512 * 1024


@pytest.mark.parametrize("change", [{}, {"ema": 0.9}], ids=str)
def test_plan_says_what_a_run_holds(change):
    run = tiny.run(**change)
    facts = plan(run)
    state = Setup(run, make_mesh(run.mesh, jax.devices()[:1])).create()[0]
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert facts["params"] == sum(x.size for x in jax.tree.leaves(state.params))
    assert facts["params_bytes"] == size(state.params) and facts["optimizer_bytes"] == size(state.opt_state)
    assert facts["state_bytes"] == size((state.params, state.opt_state, state.ema))
    held = cache.empty(run.model, 1, run.data.T, jnp.dtype(run.model.dtype), stacked=False)
    assert facts["cache_bytes_per_text"] == size(held)


def test_plan_of_a_model_beyond_all_memory_takes_none():
    run, before = config.resolve("gpt2_124m", HUGE), len(jax.live_arrays())
    start = time.process_time()
    facts = plan(run)
    assert time.process_time() - start < 5  # about half a second on an idle machine
    assert len(jax.live_arrays()) <= before
    assert facts["params"] == pytest.approx(175e9, rel=0.01) and facts["state_bytes"] > 2e12


def test_the_table_has_a_line_a_fact_with_its_unit(capsys):
    assert cli.main(["plan", "gpt2_124m"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == plan(config.resolve("gpt2_124m")).keys()
    assert lines["params"] == "124,439,808" and lines["flops_per_token"] == "7.978e+08"
    assert lines["params_bytes"] == "474.700 MiB" and lines["state_bytes"] == "1.391 GiB"
    assert lines["cache_bytes_per_token"] == "73,728 B"
    assert table({"x_bytes": 2**20, "y": 3}) == "x_bytes  1.000 MiB\ny        3"
    assert table({"x_bytes": 5000 * 2**30}) == "x_bytes  5,000.000 GiB"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["gpt2_124m", "model.D=0"], "model.D=0 must be at least 1"),
        (["gpt2_124m", "model.DD=1"], "did you mean"),
        (["gpt2_124m", "optimizer.warmup=30000"], "warmup=30000 must be"),
        (["gpt2_124m", "optimizer.name=adamx"], "adamx"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    assert cli.main(["plan", *argv, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_the_command_prints_nothing_but_the_object():
    """In a process of its own, where the first use of jax might say something."""
    result = subprocess.run([sys.executable, "-m", "jaxlm.cli", "plan", "quickstart", "--json"], capture_output=True)
    layers = config.resolve("quickstart").model.depth
    assert json.loads(result.stdout)["layers"] == layers and result.stderr == b"" and result.returncode == 0


def test_plan_of_a_published_folder(tmp_path, capsys):
    """Its config.json is enough; that its weights are quantised is said, whichever file says so."""
    checkpoints.write(tmp_path, {}, LLAMA | {"torch_dtype": "bfloat16"})
    (tmp_path / "model.safetensors").unlink()
    for path in (tmp_path, tmp_path / "config.json"):
        assert cli.main(["plan", str(path), "--json", "steps=7"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["params"] == sum(x.size for x in checkpoints.llama().values()) and facts["steps"] == 7
        assert facts["cache_bytes_per_token"] == 2 * 3 * 2 * 2 * 2 and "quantised" not in facts
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert cli.main(["plan", str(tmp_path)]) == 0
    assert "quantised                hf_quant_config.json: NVFP4; bytes are" in capsys.readouterr().out
    checkpoints.write(tmp_path, {}, LLAMA | {"quantization_config": {"quant_method": "fp8"}})
    assert cli.main(["plan", str(tmp_path), "--json"]) == 0
    assert "config.json: fp8" in json.loads(capsys.readouterr().out)["quantised"]
    checkpoints.write(tmp_path, {}, LLAMA | {"hidden_size": "8"})
    assert cli.main(["plan", str(tmp_path)]) == 2
    assert f"{tmp_path}/config.json: hidden_size must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--mesh=data=" + "9" * 5000, "--mesh=data=-1", "--mesh=data=3", "--decode=" + "9" * 5000 + "x1"]
)
def test_meshes_that_make_no_sense_are_one_line(option, capsys):
    assert cli.main(["plan", "quickstart", option]) == 2
    assert len(capsys.readouterr().err) < 400


def test_a_mesh_alone_divides_the_state(capsys):
    assert cli.main(["plan", "quickstart", "--mesh", "fsdp=4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["devices"] == 4 and facts["params_bytes_per_device"] < 0.3 * facts["params_bytes"]


def test_a_hybrid_holds_states_beside_the_slots_of_tokens():
    """Qwen3.5: of gated DeltaNet the last inputs of convolutions and a matrix a head, float32, whatever the text."""
    run = RunConfig(lm_config(golden_families.config("qwen3_5")))
    facts = plan(run)
    G, H, K, J, W = 2, 4, 4, 6, 3
    assert facts["cache_bytes_of_states"] == 4 * ((W - 1) * (2 * G * K + H * J) + H * K * J)
    assert facts["cache_bytes_per_token"] == 4 * 2 * 2 * 8
    assert facts["cache_bytes_per_text"] == facts["cache_bytes_of_states"] + run.data.T * facts["cache_bytes_per_token"]
