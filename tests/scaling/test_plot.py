import matplotlib.image
import numpy as np

from jaxlm.scaling import ChinchillaForm, KaplanForm, fit, fit_isoflops
from jaxlm.scaling.plot import plot
from tests.scaling import synthetic


def _pixels(path):
    return matplotlib.image.imread(path)[..., :3]


def test_a_picture_of_a_fit(tmp_path):
    runs = synthetic.runs(noise=0.01)
    found, isoflops = fit(runs, resamples=20), fit_isoflops(runs, resamples=20)
    for name in ("law.png", "again.png"):
        plot(found, isoflops, tmp_path / name)
    assert (tmp_path / "law.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    quarters = [
        part for half in np.array_split(_pixels(tmp_path / "law.png"), 2, 1) for part in np.array_split(half, 2)
    ]
    assert all(part.std() > 0.02 for part in quarters)  # something is drawn everywhere


def test_other_laws_and_few_runs_are_drawn_too(tmp_path):
    runs = synthetic.runs(noise=0.01, budgets=2, sizes=4)
    for i, form in enumerate((KaplanForm(), ChinchillaForm(tied=True))):
        plot(fit(runs, form, resamples=10), None, tmp_path / f"{i}.png")
        assert all(part.std() > 0.02 for part in np.array_split(_pixels(tmp_path / f"{i}.png"), 3, 1))
