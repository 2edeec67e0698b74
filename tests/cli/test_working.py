"""The command that would have worked stands in the line that tells the mistake."""

from pathlib import Path

import pytest

from jaxlm.cli import main
from jaxlm.train import loop


@pytest.fixture
def line(tmp_path, monkeypatch, capsys):
    """Runs a command that is refused; what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        assert main(list(argv)) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and len(err) < 700
        return err

    return run


@pytest.mark.parametrize(
    ("argv", "tried"),
    [
        ("train quickstart lr=0.1", "train quickstart optimizer.learning_rate=0.1"),
        ("train quickstart lr=1 n_ctx=8 seed=1", "train quickstart optimizer.learning_rate=1 data.T=8 seed=1"),
        ("train quickstart --steps 20", "train quickstart steps=20"),
        ("train quickstart --steps=20 --run x", "train quickstart steps=20 --run x"),
        ("train quickstart --batch-size 2 seed=1", "train quickstart batch=2 seed=1"),
        ("plan quickstart --lr 1 --json", "plan quickstart optimizer.learning_rate=1 --json"),
        ("train shakespeare steps=20", "train shakespeare steps=20 optimizer.warmup=2"),
        ("train shakespeare max_steps=20", "train shakespeare steps=20 optimizer.warmup=2"),
        ("train gpt depth=12", "train 'gpt(depth=12)'"),
        ("train gpt.py:gpt(depth=8) seed=1 depth=12 mup=true", "train 'gpt.py:gpt(depth=12, mup=True)' seed=1"),
        ("plan gpt --depth 12 --json", "plan 'gpt(depth=12)' --json"),
        ("train quickstart mesh=data=2", "train quickstart mesh.data=2"),
        ("plan quickstart data.path=a*b", "plan quickstart 'data.sources.0.path=a*b'"),
    ],
)
def test_a_command_that_works_is_shown(argv, tried, line):
    assert line(*argv.split()).endswith(f" Try: jaxlm {tried}\n")


NO = [
    "train gpt depth=deep",
    "train quickstart lr=fast",
    "train quickstart lr=1 nothing.at.all=2",
    "train nothing --lr 1",
]


@pytest.mark.parametrize("argv", NO)
def test_none_is_shown_where_it_would_not_work(argv, line):
    assert "Try:" not in line(*argv.split())


def test_text_that_is_not_there(line):
    said = line("train", "shakespeare", "batch=16")
    assert said.startswith("jaxlm: error: tinyshakespeare.txt: no such file or folder; name your own text")
    assert said.endswith("Try: jaxlm train shakespeare batch=16 data.sources.0.path=FILE.txt\n")
    assert "Try:" not in line("train", "shakespeare", "data.sources.0.path=gone.txt")


def test_a_folder_for_another_run(line, monkeypatch):
    def refuse(run, folder, feed):
        from jaxlm.errors import UserError
        from jaxlm.train.folder import _free

        raise UserError("it holds a run of another config", right=f"--run={_free(folder)}")

    monkeypatch.setattr(loop, "train", refuse)
    Path("runs/quickstart-2").mkdir(parents=True)
    assert line("train", "quickstart").endswith("Try: jaxlm train quickstart --run runs/quickstart-3\n")
    assert line("train", "quickstart", "--run", "x").endswith("Try: jaxlm train quickstart --run x-2\n")


def test_a_verb_without_its_arguments_shows_its_example(line):
    assert "such as: jaxlm train quickstart steps=200" in line("train")
