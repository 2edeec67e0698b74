"""`jaxlm plan` on topologies that are not here."""

import json
import re
import types

import pytest

from jaxlm import cli
from jaxlm.plan import topology as topologies

SMALL = ["gpt2_124m", "model.V=50304", "batch=64", "accumulate=1", "--topology", "h100:8"]


def said(capsys, *argv: str) -> str:
    assert cli.main(["plan", *argv]) == 0
    return capsys.readouterr().out


def test_one_object_with_everything(capsys):
    facts = json.loads(said(capsys, *SMALL, "--mesh", "fsdp=8", "--json"))
    assert facts["params"] == 124_475_904 and facts["fits"] and not facts["compiled"]
    held = facts["bytes_per_device"]
    assert held["params"] == pytest.approx(4 * 124_475_904 / 8, rel=0.02)
    assert held["limit"] == topologies.parse("h100:8").chip.usable > held["total"] > held["params"] + held["optimizer"]
    assert 0 < facts["predicted_mfu"] < 1 and facts["predicted_step_seconds"] > 0
    assert sum(facts["seconds_by_part"].values()) == pytest.approx(facts["predicted_step_seconds"])
    kinds = {(one["kind"], tuple(one["axes"])) for one in facts["collectives"]}
    assert ("all-gather", ("fsdp",)) in kinds and ("reduce-scatter", ("fsdp",)) in kinds
    assert facts["flops_per_token"] == 797_815_296 + 6 * 47 * 768  # of a vocabulary that eight divide


def test_tables_for_people_and_a_picture(capsys, tmp_path):
    png = tmp_path / "plan.png"
    text = said(capsys, *SMALL, "--mesh", "data=4,tensor=2", "--decode", "16x512", "--picture", str(png))
    assert "gpt2_124m: h100:8, 8 devices: an ESTIMATE" in text and "predicted step" in text
    assert re.search(r"a device computes \d+\.\d+ TFLOP \(\d+% of them the model's own\), moves \d+\.\d+ GB", text)
    assert re.search(r"at once +\d+\.\d\d GiB of 68\.5\d: fits", text)
    assert "all-gather          layers     tensor" in text
    assert "decoding 16x512: " in text and re.search(r"cache +\d", text)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_picture_says_where_it_is_an_estimate(monkeypatch, tmp_path):
    """The limit's line has a colour of its own."""
    from jaxlm.plan import picture

    figures = []
    monkeypatch.setattr(picture.picture, "save", lambda figure, path: figures.append(figure))
    kinds = types.SimpleNamespace(kinds=lambda: {"params": 2**30, "optimizer": 2**31})
    timing = types.SimpleNamespace(parts=lambda: {"compute": 1.0}, step=1.0, mfu=0.5)
    for compiled in (False, True):
        picture.draw(kinds, 2**32, timing, "gpt on v5e", tmp_path / "plan.png", compiled)  # type: ignore[arg-type]
    for compiled, figure in zip((False, True), figures):
        above = figure.axes[0]
        assert ("estimate" in above.get_title(loc="left")) is ("estimated" in above.get_xlabel()) is not compiled
        assert above.lines[0].get_color() not in [bar.get_facecolor() for bar in above.patches]
        assert above.lines[0].get_color() not in picture.picture.COLOURS
        assert "roofline" in figure.axes[1].get_xlabel()


def test_fake_devices_have_this_machines_compiler(capsys):
    tiny = ["data.T=128", "batch=8", "accumulate=1", "model.D=64", "model.layers.0.blocks.0.mixer.H=2"]
    argv = "gpt2_124m", *tiny, "--topology", "cpu:8", "--mesh", "fsdp=8", "--decode", "8x128"
    facts = json.loads(said(capsys, *argv, "--json"))
    assert facts["compiled"] and facts["decode"]["compiled"] and facts["compile_seconds"] > 0
    held = facts["bytes_per_device"]
    assert held["limit"] is None and held["total"] > held["params"] + held["optimizer"] > 0
    text = said(capsys, *argv)
    assert "cpu:8, 8 devices: compiled in" in text and max(map(len, text.splitlines())) < 160


def test_what_does_not_fit_is_told_what_would(capsys):
    text = said(
        capsys, "gpt3_xl", "batch=64", "accumulate=1", "model.remat=none", "--topology", "h100:8", "--mesh", "data=8"
    )
    assert "DOES NOT FIT" in text
    assert re.search(r"the cheapest change that makes it fit: \S+=\S+.* \(\d+\.\d GiB, estimated", text)


def test_a_search_ranks(capsys):
    lines = said(capsys, *SMALL, "--search").splitlines()
    assert lines[0] == "gpt2_124m on h100:8, estimated, fastest first:"
    rates = [float(line.split()[2].replace(",", "")) for line in lines[2:]]
    assert len(rates) > 3 and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--topology", "v9:4x4"], "unknown topology 'v9': did you mean"),
        (["--topology", "h100:8", "--mesh", "fsdp=4"], "mesh fsdp=4 does not match the 8 devices"),
        (["--topology", "h100:8", "--mesh", "fsdp"], "--mesh 'fsdp' is not like data=8,fsdp=64"),
        (["--topology", "h100:8", "--mesh", "tensr=8"], "unknown mesh axis 'tensr': did you mean 'tensor'"),
        (["--topology", "h100:8", "--mesh", "tensor=8"], "mesh tensor=8 does not divide the 'vocab' axis"),
        (["--topology", "h100:8", "--decode", "8"], "--decode '8' is not like 64x8192"),
        (["--search"], "--search needs --topology"),
        (["--topology", "cpu:8", "--search"], "--search needs a topology of chips whose speed is known"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, words):
    assert cli.main(["plan", "gpt2_124m", "batch=64", "accumulate=1", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
