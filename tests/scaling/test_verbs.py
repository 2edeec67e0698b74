import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm import cli
from tests.scaling import synthetic


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    runs = synthetic.runs(noise=0.005)
    rows = zip(runs.parameters, runs.tokens, runs.loss)
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    path.write_text("\n".join(["parameters,tokens,loss", *(f"{n:.17g},{d:.17g},{loss:.17g}" for n, d, loss in rows)]))
    return str(path)


def say(capsys, *argv: str) -> str:
    assert cli.main(["scaling", *argv]) == 0
    return capsys.readouterr().out


def test_a_table_of_one_model_and_of_several(capsys):
    out = say(capsys, "table", "gpt2_124m")
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert "124,439,808" in lines["total"] and "38,597,376" in lines["embed.table"]
    assert "T = 1024: 1.0685 of 6 N; Chinchilla's own count is 1.3629" in out
    out = say(capsys, "table", "gpt3_small", "gpt3_175b")
    assert [line.split()[0] for line in out.splitlines()] == ["config", "gpt3_small", "gpt3_175b"]
    assert "174,604,259,328" in out and "3.143e+23" in out and "3,638" in out
    facts = json.loads(say(capsys, "table", "gpt2_124m", "--json"))["gpt2_124m"]
    assert facts["parameters"] == sum(part["parameters"] for part in facts["parts"].values()) == 124_439_808


def test_a_fit_is_told_and_drawn(table, capsys, tmp_path):
    out = say(capsys, "fit", table, "--drop", "1", "--hold", "2", "--plot", str(tmp_path / "law.png"))
    assert "51 runs fitted: off by 0." in out and out.count("held out: ") == 2 and "a, isoFLOP" in out
    assert (tmp_path / "law.png").exists()
    facts = json.loads(say(capsys, "fit", table, "--json"))
    alpha = facts["constants"]["alpha"]
    assert alpha["low"] < synthetic.LAW.alpha < alpha["high"] and alpha["error"] < 0.05
    assert facts["exponent"]["value"] == pytest.approx(synthetic.LAW.exponent, abs=0.03)
    assert len(facts["isoflops"]["curves"]) == 6 and facts["held"] == []


def test_a_fit_says_what_it_does_not_know(capsys, tmp_path):
    runs = synthetic.runs(noise=0.01, budgets=2, sizes=4)
    runs.loss[runs.loss.argmax()] *= 1.3
    rows = zip(runs.parameters, runs.tokens, runs.loss)
    path = tmp_path / "few.csv"
    path.write_text("\n".join(["parameters,tokens,loss", *(f"{n},{d},{loss}" for n, d, loss in rows)]))
    out = say(capsys, "fit", str(path))
    assert "E, " in out and " not determined by these 8 runs" in out


def test_a_fit_suggests_what_to_leave_out(table, capsys, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(Path(table).read_text() + "\n1e8,1e9,30\n1e8,2e9,28")
    assert "the 2 runs of the highest loss are far off, and few runs move all constants: try --drop 2" in say(
        capsys, "fit", str(path)
    )


def test_other_forms(table, capsys):
    assert json.loads(say(capsys, "fit", table, "--form", "tied", "--json"))["constants"].keys() == {
        "E",
        "A",
        "B",
        "alpha",
    }
    assert "alpha_D" in say(capsys, "fit", table, "--form", "kaplan")


def test_a_plan_is_told(table, capsys):
    out = say(capsys, "plan", "--flops", "1e21", "--serve", "1e12", "--sizes", "gpt3_small", "gpt3_xl")
    assert "parameters  2.78B\n" in out and "to serve 1T tokens as well" in out and "gpt3_xl" in out
    facts = json.loads(say(capsys, "plan", "--chips", "8", "--chip", "h100", "--hours", "10", "--json"))
    assert facts["flops"] == pytest.approx(8 * 989e12 * 36000 * 0.4) and facts["loss"]["low"] is None
    facts = json.loads(say(capsys, "plan", "--flops", "1e21", "--runs", table, "--json"))
    assert facts["loss"]["low"] < synthetic.LAW.optimum(1e21).loss < facts["loss"]["high"]
    assert np.isclose(facts["parameters"]["value"], synthetic.LAW.optimum(1e21).parameters, rtol=0.2)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["table", "gpt9"], "no config is called 'gpt9'"),
        (["fit", "none.csv"], "cannot read the runs of none.csv: No such file or directory"),
        (["fit", "TABLE", "--hold", "54"], "--drop 0 and --hold 54 leave none of the 54 runs"),
        (["fit", "TABLE", "--hold", "50"], "a fit of 5 constants (E, A, B, alpha, beta) needs 6 runs, there are 4"),
        (["fit", "TABLE", "--form", "cubic"], "invalid choice: 'cubic'"),
        (["plan"], "say how much compute: --flops C, or all of --chips N --chip NAME --hours H"),
        (["plan", "--chips", "8", "--hours", "2"], "say how much compute"),
        (["plan", "--flops", "1e21", "--chips", "8", "--chip", "h100", "--hours", "2"], "say how much compute"),
        (["plan", "--flops", "-1"], "--flops must be a positive number, not -1"),
        (["plan", "--flops", "nan"], "--flops must be a positive number, not nan"),
        (["plan", "--flops", "1e21", "--serve", "0"], "--serve must be a positive number, not 0"),
        (["plan", "--flops", "1e21", "--batch", "0"], "--batch must be a positive number, not 0"),
        (["plan", "--chips", "8", "--chip", "h10", "--hours", "2"], "unknown accelerator 'h10': did you mean 'h100'"),
    ],
)
def test_mistakes_are_one_line(argv, message, table, capsys):
    assert cli.main(["scaling", *(table if word == "TABLE" else word for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
