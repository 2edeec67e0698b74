"""Every shipped size has exactly the parameters that transformers counts in a model of its published config.json."""

import re
import time

import pytest

from jaxlm import config, convert
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.plan import plan

# The name; the parameters of transformers' model (5.23, meta device, tied ones once, text models only; DeepSeek V3 and
# Kimi include e_score_correction_bias, a buffer there, but a parameter in their own code and here) and what its authors
# or the Hub round them to ("-" where they count something else: GPT-3 medium is called 350M, Pythia 31M has 30.5M,
# Llama 4 includes a vision encoder; T5 1.1's head, which transformers 5 ties in new models, is one of its own; BART and
# Marian include final_logits_bias, a buffer there, and Marian's fixed sinusoids are left out); with experts, those that
# work on one token, and their published number, which some count without the embedding ("-": Qwen3 30B-A3B and
# DeepSeek-V2-Lite are rounded down).
SIZES = """
gpt2_124m 124_439_808 124M
gpt2_355m 354_823_168 355M
gpt2_774m 774_030_080 774M
gpt2_1558m 1_557_611_200 1558M
gpt3_small 125_226_240 125M
gpt3_medium 355_871_744 -
gpt3_large 760_300_032 760M
gpt3_xl 1_315_723_264 1.3B
gpt3_2_7b 2_651_553_280 2.7B
gpt3_6_7b 6_658_404_352 6.7B
gpt3_13b 12_853_386_240 13B
gpt3_175b 174_604_259_328 175B
llama_7b 6_738_415_616 6.7B
llama_13b 13_015_864_320 13.0B
llama_2_7b 6_738_415_616 7B
llama_2_13b 13_015_864_320 13B
llama_2_70b 68_976_648_192 69B
llama_3_8b 8_030_261_248 8.03B
llama_3_1_8b 8_030_261_248 8.03B
llama_3_1_70b 70_553_706_496 70.6B
llama_3_1_405b 405_853_388_800 406B
llama_3_2_1b 1_235_814_400 1.24B
llama_3_2_3b 3_212_749_824 3.21B
llama_4_scout 107_769_861_120 - 17_172_894_720 17B
llama_4_maverick 400_711_848_960 - 17_184_691_200 17B
mistral_7b 7_241_732_096 7.24B
mistral_nemo_12b 12_247_782_400 12.2B
mixtral_8x7b 46_702_792_704 46.7B 12_879_925_248 12.9B
mixtral_8x22b 140_630_071_296 141B 39_161_468_928 39B
gemma2_2b 2_614_341_888 2.61B
gemma2_9b 9_241_705_984 9.24B
gemma2_27b 27_227_128_320 27.2B
gemma3_270m 268_098_176 268M
gemma3_1b 999_885_952 1000M
gemma3_4b 3_880_263_168 3.88B
gemma3_12b 11_766_034_176 11.77B
gemma3_27b 27_009_346_304 27.0B
qwen2_5_0_5b 494_032_768 494M
qwen2_5_1_5b 1_543_714_304 1.54B
qwen2_5_3b 3_085_938_688 3.09B
qwen2_5_7b 7_615_616_512 7.62B
qwen2_5_14b 14_770_033_664 14.8B
qwen2_5_32b 32_763_876_352 32.8B
qwen2_5_72b 72_706_203_648 72.7B
qwen3_0_6b 596_049_920 0.6B
qwen3_1_7b 1_720_574_976 1.7B
qwen3_4b 4_022_468_096 4.0B
qwen3_8b 8_190_735_360 8.2B
qwen3_14b 14_768_307_200 14.8B
qwen3_32b 32_762_123_264 32.8B
qwen3_30b_a3b 30_532_122_624 30.5B 3_353_032_704 -
qwen3_235b_a22b 235_093_634_560 235B 22_190_763_520 22B
smollm3_3b 3_075_098_624 3.08B
deepseek_v2_lite 15_706_484_224 15.7B 2_661_150_208 -
deepseek_v2 235_741_434_880 236B 21_375_800_320 21B
deepseek_v3 671_026_419_200 671B 37_552_297_472 37B
kimi_k2 1_026_408_232_448 1.03T 32_861_500_928 32B
gpt_oss_20b 20_914_757_184 20.91B 4_187_440_704 3.61B
gpt_oss_120b 116_829_156_672 116.83B 5_711_982_912 5.13B
phi3_mini 3_821_079_552 3.8B
phi3_medium 13_960_238_080 14B
olmo2_1b 1_484_916_736 1.48B
olmo2_7b 7_298_617_344 7.3B
olmo2_13b 13_716_198_400 13.7B
olmo2_32b 32_234_279_936 32.2B
command_r 34_980_831_232 35B
command_r_plus 103_810_674_688 104B
aya_23_8b 8_028_033_024 8.03B
command_r7b 8_028_033_024 8.03B
command_a 111_057_580_032 111B
glm_4_9b 9_399_951_360 9.4B
granite_3_2b 2_533_525_504 2.53B
granite_3_8b 8_170_835_968 8.17B
bloom_560m 559_214_592 559M
bloom_1b1 1_065_314_304 1.1B
bloom_1b7 1_722_408_960 1.7B
bloom_3b 3_002_557_440 3.0B
bloom_7b1 7_069_016_064 7.1B
bloom_176b 176_247_271_424 176B
mpt_7b 6_649_286_656 6.6B
mpt_30b 29_957_200_896 30.0B
gpt_neox_20b 20_554_567_680 20.6B
pythia_14m 14_067_712 14M
pythia_31m 30_494_720 -
pythia_70m 70_426_624 70M
pythia_160m 162_322_944 162M
pythia_410m 405_334_016 405M
pythia_1b 1_011_781_632 1.01B
pythia_1_4b 1_414_647_808 1.41B
pythia_2_8b 2_775_208_960 2.78B
pythia_6_9b 6_857_302_016 6.86B
pythia_12b 11_846_072_320 11.8B
opt_125m 125_239_296 125M
opt_350m 331_196_416 331M
opt_1_3b 1_315_758_080 1.3B
opt_2_7b 2_651_596_800 2.7B
opt_6_7b 6_658_473_984 6.7B
opt_13b 12_853_473_280 13B
opt_30b 29_974_540_288 30B
opt_66b 65_719_701_504 66B
diffllama_375m 374_641_664 375M
t5_small 60_506_624 60.5M
t5_base 222_903_552 223M
t5_large 737_668_096 738M
t5_3b 2_851_598_336 2.85B
t5_11b 11_307_321_344 11.3B
t5_1_1_small 76_961_152 77M
t5_1_1_base 247_577_856 248M
t5_1_1_large 783_150_080 783M
t5_1_1_xl 2_849_757_184 2.85B
t5_1_1_xxl 11_135_332_352 11.1B
mt5_small 300_176_768 300M
mt5_base 582_401_280 582M
mt5_large 1_229_581_312 1.23B
mt5_xl 3_742_619_648 3.7B
mt5_xxl 12_921_057_280 13B
ul2_20b 19_591_209_984 20B
bart_base 139_470_681 139M
bart_large 406_341_721 406M
mbart_large 611_101_867 611M
marian_base 73_944_309 -
switch_base_8 619_339_008 619M
switch_base_16 1_072_397_568 1.07B
switch_base_32 1_978_514_688 1.98B
switch_base_64 3_790_748_928 3.79B
switch_base_128 7_415_217_408 7.4B
bert_base 110_106_428 110M
bert_large 336_226_108 336M
roberta_base 124_697_433 125M
roberta_large 355_412_057 355M
distilbert_base 66_985_530 67.0M
longformer_base 148_711_257 149M
longformer_large 434_653_273 435M
bigbird_base 128_112_824 128M
bigbird_large 360_228_024 360M
albert_base 11_813_810 12M
albert_large 17_847_474 18M
albert_xlarge 59_021_490 59M
albert_xxlarge 223_158_450 223M
electra_small 14_196_475 -
electra_base 119_387_963 -
electra_large 354_657_339 -
modernbert_base 149_655_232 150M
modernbert_large 395_881_664 396M
xlstm_7b 6_865_424_896 6.87B
gpt3_356m 355_919_872 356M
llama_407m 406_635_520 407M
mamba_423m 423_052_288 423M
rwkv4_430m 430_452_736 430M
h3_420m 413_149_184 -
hyena_435m 435_840_512 -
rwkv5_456m 455_692_288 456M
rwkv6_442m 441_585_664 442M
retnet_431m 431_801_344 -
gla_412m 407_243_776 -
hgrn_411m 406_684_672 -
hgrn2_411m 406_684_672 -
xlstm_1_0_409m 409_290_112 409M
xlstm_7_1_408m 408_436_048 408M
"""
TABLE = {line.split()[0]: line.split()[1:] for line in SIZES.split("\n") if line}
XLSTM_TABLE = ("gpt3_356m", "llama_407m", "mamba_423m", "rwkv4_430m", "h3_420m", "hyena_435m")
XLSTM_TABLE += ("rwkv5_456m", "rwkv6_442m", "retnet_431m", "gla_412m", "hgrn_411m", "hgrn2_411m")
XLSTM_TABLE += ("xlstm_1_0_409m", "xlstm_7_1_408m")
NO_SIZES = {
    "arithmetic",
    "arithmetic_rl",
    "dpo",
    "bert_mlm",
    "distil",
    "formal_languages",
    "grpo",
    "gpt",
    "memory",
    "multi30k_bahdanau",
    "multi30k_transformer",
    "othello",
    "quickstart",
    "recurrent",
    "reward",
    "sft",
    "shakespeare",
    "sorting",
    "sst2",
    "sst2_pretrain",
    "wikitext",
}


def rounds_to(count: int, published: str) -> bool:
    digits, unit = published[:-1], {"M": 1e6, "B": 1e9, "T": 1e12}[published[-1]]
    return f"{count / unit:.{len(digits.partition('.')[2])}f}" == digits


def test_every_size_is_in_the_table_and_says_its_parameters_and_command():
    shipped = {name.partition(":")[2]: (name.partition(":")[0], summary) for name, _, summary in config.list_configs()}
    assert shipped.keys() == TABLE.keys() | NO_SIZES
    for name, (total, *_) in TABLE.items():
        file, summary = shipped[name]
        assert f"{int(total):,} parameters" in summary, name
        assert f"        jaxlm train {name} " in (config._folder() / file).read_text(encoding="utf-8"), name


def test_planning_the_largest_takes_no_time_and_no_memory():
    run, start = config.resolve("kimi_k2"), time.process_time()
    facts = plan(run)
    assert time.process_time() - start < 5  # about a second on an idle machine
    assert facts["state_bytes"] > 12e12


@pytest.mark.parametrize("name", TABLE)
def test_a_published_size_has_its_parameters(name):
    run, (total, published, *experts) = config.resolve(name), TABLE[name]
    assert flops.parameters(run.model) == int(total)
    assert published == "-" or rounds_to(int(total), published)
    if experts:
        active, published = int(experts[0]), experts[1]
        assert plan(run)["active_params"] == active
        assert published == "-" or any(rounds_to(n, published) for n in (active, active - run.model.V * run.model.D))


def test_the_table_of_the_xlstm_paper_is_within_two_percent():
    sizes = {name: int(name[-4:-1]) for name in TABLE if name in XLSTM_TABLE}
    assert len(sizes) == len(XLSTM_TABLE)
    for name, published in sizes.items():
        assert abs(flops.parameters(config.resolve(name).model) / 1e6 / published - 1) < 0.02, name


# Models of other published configs; the parameters that transformers counts, what their authors say.
ELECTRA = {"model_type": "electra", "vocab_size": 30_522, "max_position_embeddings": 512}
SMALL = {"embedding_size": 128, "hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4}
BASE = {"embedding_size": 768, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"embedding_size": 1024, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}


@pytest.mark.parametrize(
    "fields, bare, with_head, published",
    [
        (SMALL, 13_483_008, 13_549_057, "14M"),
        (BASE, 108_891_648, 109_483_009, ""),
        (LARGE, 334_092_288, 335_142_913, "335M"),
    ],
)
def test_electra(fields, bare, with_head, published):
    """Its base is called 110M."""
    fields = ELECTRA | fields | {"intermediate_size": 4 * fields["hidden_size"]}
    assert flops.parameters(convert.lm_config(fields)) == bare
    found = flops.parameters(convert.lm_config(fields | {"architectures": ["ElectraForPreTraining"]}))
    assert found == with_head and (not published or rounds_to(found, published))


ALBERT = [
    (768, 12, 12, 11_683_584),
    (1024, 24, 16, 17_683_968),
    (2048, 24, 16, 58_724_864),
    (4096, 12, 64, 222_595_584),
]


@pytest.mark.parametrize("D, N, H, total", ALBERT)
def test_albert(D, N, H, total):
    """Base, large, xlarge and xxlarge, which its authors call 12M, 18M, 60M and 235M."""
    fields = {"model_type": "albert", "vocab_size": 30_000, "embedding_size": 128, "intermediate_size": 4 * D}
    fields |= {"hidden_size": D, "num_hidden_layers": N, "num_attention_heads": H, "max_position_embeddings": 512}
    assert flops.parameters(convert.lm_config(fields)) == total


def test_encoders_without_heads_as_they_are_published():
    """BERT's 109.5M and DistilBERT's 66M."""
    fields = {"vocab_size": 30_522, "max_position_embeddings": 512}
    bert = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    assert flops.parameters(convert.lm_config({"model_type": "bert"} | fields | bert)) == 109_482_240
    distilbert = {"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072}
    assert flops.parameters(convert.lm_config(distilbert | fields)) == 66_362_880


# The dial -------------------------------------------------------------------------------------------------------------


def test_the_table_of_gpt_says_what_its_configs_are():
    text = (config._folder() / "gpt.py").read_text(encoding="utf-8")
    rows = re.findall(r"^ +(\d+) +\d+ .*$", text, re.MULTILINE)
    assert rows == ["4", "8", "12", "16", "24", "32"]
    for depth in rows:
        run = config.resolve(f"gpt(depth={depth})")
        cost = run.steps * run.tokens_per_step * flops.train_flops(run.model, run.data.T)
        how = run.optimizer
        facts = [depth, str(run.model.D), f"{flops.parameters(run.model):,}", f"{run.steps * run.tokens_per_step:,}"]
        facts += [str(run.batch), str(run.steps), f"{how.learning_rate:.3g}", f"{how.weight_decay:.3f}"]
        facts += [f"{cost:.2e}", f"{cost / (0.4 * 989e12 * 3600):#.3g}".rstrip(".")]
        assert re.search(r"^ +" + " +".join(map(re.escape, facts)) + "$", text, re.MULTILINE), facts


def test_the_dial_obeys_its_rules():
    small, large, odd = (config.resolve(f"gpt(depth={depth})") for depth in (12, 24, 3))
    assert (small.model.D, small.model.depth, small.model.layers[0].blocks[0].mixer.H) == (768, 12, 6)
    assert odd.model.D == 256  # 192, rounded up to heads of 128
    for run in (small, large, odd):
        assert run.model.D == 128 * run.model.layers[0].blocks[0].mixer.H
        tokens = run.steps * run.tokens_per_step
        assert tokens == pytest.approx(20 * flops.matmul_parameters(run.model), rel=1e-3)
        compute = tokens * flops.train_flops(run.model, 2048)
        assert run.optimizer.learning_rate == pytest.approx(0.3118 * compute**-0.125, rel=1e-3)
        assert 2**-0.5 < run.tokens_per_step / (0.292 * compute**0.3271) < 2**0.5
        memory = 1 / (run.optimizer.learning_rate * run.optimizer.weight_decay) / run.steps
        assert memory == pytest.approx(1 / (small.optimizer.learning_rate * 0.1) / small.steps)
    twice = config.resolve("gpt(ratio=40)")
    assert twice.steps * twice.tokens_per_step == pytest.approx(2 * small.steps * small.tokens_per_step, rel=1e-3)
    with pytest.raises(UserError, match="depth=0"):
        config.resolve("gpt(depth=0)")


def test_the_dial_with_maximal_update_parametrisation():
    base, wide = config.resolve("gpt"), config.resolve("gpt(depth=24, mup=True)")
    assert wide.mup_base == base.model and wide.optimizer.learning_rate == base.optimizer.learning_rate
    assert config.resolve("gpt(mup=True)").model == base.model
    assert wide.model.layers[0].blocks[0].scale == 1 / 2
    assert config.from_dict(config.to_dict(wide)) == wide
