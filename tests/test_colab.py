"""Every notebook runs from top to bottom, small and headless."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {  # what a notebook prints, and what it draws
    "00_quickstart": (["this model", "nats"], ["runs/quickstart/loss.png"]),
    "01_tokenizers": (
        ["FastTokenizer", "learned from: 'Pescado.<|im_end|>'"],
        ["bpe.png", "unigram.png", "fertility.png"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "colab").glob("*.ipynb")), ids=lambda path: path.stem)
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
