"""Every notebook runs from top to bottom, small and headless, and its first cell installs jaxlm on Colab's list."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SHOWN = {  # what a notebook prints, and what it draws
    "00_quickstart": (["this model", "nats"], ["runs/quickstart/loss.png"]),
    "01_tokenizers": (
        ["FastTokenizer", "learned from: 'Pescado.<|im_end|>'"],
        ["bpe.png", "unigram.png", "fertility.png"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXLM_NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    words, pictures = SHOWN[path.stem]
    assert [word for word in words if word not in printed] == []
    for picture in pictures:
        assert (tmp_path / picture).stat().st_size > 1000
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs"), "commit notebooks without outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_is_the_same_in_all(path: Path) -> None:
    spec = importlib.util.spec_from_file_location("stamp_notebooks", ROOT / "scripts/stamp_notebooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = path.read_text()
    assert text == module.stamped(text, (ROOT / "colab/first_cell.py").read_text()), "run scripts/stamp_notebooks.py"


def _pinned() -> dict[str, str]:
    lines = (ROOT / "constraints/colab.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.slow
def test_the_first_cell_installs_on_colab(tmp_path: Path) -> None:
    """In an environment with Colab's releases and without jaxlm, in a folder with the clone beside it."""
    pinned = _pinned()
    if {name: importlib.metadata.version(name) for name in pinned} != pinned:
        pytest.skip("needs Colab's releases: scripts/test --floor")
    # A fresh environment sees these releases through links, all but jaxlm itself and what Colab does not ship.
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python, shipped = tmp_path / "venv/bin/python", tmp_path / "shipped"
    shipped.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match(r"_*(editable_impl_)?jaxlm|tensorboardX|pip\b|__pycache__", entry.name, re.IGNORECASE):
            (shipped / entry.name).symlink_to(entry)
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    Path(site.strip(), "shipped.pth").write_text(str(shipped))
    (tmp_path / "content").mkdir()
    clone = tmp_path / "content/jaxlm"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(code: str) -> str:
        done = subprocess.run([python, "-c", code], cwd=clone.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    show = "import jax, jaxlm, importlib.metadata as m; print(jaxlm.__file__, m.version('jax'), m.version('numpy'))"
    first = next(cell.source for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if cell.cell_type == "code")
    file, jax_version, numpy_version = run(f"{first}\n{show}").split()
    assert Path(file).parent.parent == Path(site.strip())
    assert (jax_version, numpy_version) == (pinned["jax"], pinned["numpy"])
    assert "quickstart" in run("import sys; from jaxlm.cli import console; sys.argv[1:] = ['configs']; console()")
    assert run(f"{first}\nprint(folder if 'folder' in globals() else 'there')").strip() == "there"  # a second time
