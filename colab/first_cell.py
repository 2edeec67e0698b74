# Installs jaxlm beside the machine's own jax, which is left as it is.
# On Colab, bring the repository here first: `!git clone ADDRESS jaxlm`
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

spec = importlib.util.find_spec("jaxlm")
if spec is None or spec.origin is None:  # a folder of this name, such as the clone, is no package
    folder = next((f for f in ("jaxlm", ".", "..") if pathlib.Path(f, "pyproject.toml").exists()), None)
    assert folder, "no copy of jaxlm here: clone the repository into this folder, then run this cell again"
    kept = [f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"./{folder}", *kept], check=True)
    importlib.invalidate_caches()
