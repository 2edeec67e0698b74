"""Write colab/first_cell.py into every notebook of colab/ as its first code cell: python scripts/stamp_notebooks.py"""

import json
from pathlib import Path

COLAB = Path(__file__).resolve().parents[1] / "colab"


def stamped(notebook: str, cell: str) -> str:
    """The notebook's text with this first code cell."""
    content = json.loads(notebook)
    first = next(c for c in content["cells"] if c["cell_type"] == "code")
    first["source"] = cell.rstrip("\n").splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in sorted(COLAB.glob("*.ipynb")):
        path.write_text(stamped(path.read_text(), (COLAB / "first_cell.py").read_text()))
