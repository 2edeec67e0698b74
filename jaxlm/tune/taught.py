"""Training under a teacher, whose weights stand frozen beside the student's."""

import dataclasses
import functools

import jax

from jaxlm import convert, sharding
from jaxlm.axes import Array, Params
from jaxlm.convert.files import is_model
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig, abstract
from jaxlm.objectives.distil import PROJECTION, TEACHER
from jaxlm.ops import leaves
from jaxlm.paths import expand
from jaxlm.sharding import Axes
from jaxlm.train import start
from jaxlm.trains import All, Trains, is_axes
from jaxlm.tune.quantize import axes_of, check, is_matrix, quantize


@dataclasses.dataclass(frozen=True)
class Taught(Trains):
    """Trains what `inner` does, with the model in the folder `path`, a run or one in Hugging Face's layout, as a frozen
    teacher (see `objectives.Distil`), in a `kind` of `tune.quantize` where one is named. `teacher` is its config.
    `widths` (D of the student, D of the teacher) add a trained projection between their hidden states."""

    path: str
    teacher: ModelConfig
    inner: Trains = All()
    quantize: str = ""
    widths: tuple[int, int] | None = None

    def __post_init__(self):
        if self.quantize:
            check(self.quantize)
        if self.widths is not None and min(self.widths) < 1:
            raise UserError(f"widths={self.widths} must be at least 1")

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        teacher = read_teacher(self.path, self.teacher)
        teacher = quantize(self.teacher, teacher, self.quantize) if self.quantize else teacher
        dressed = {**self.inner.dress(params, axes, key), TEACHER: teacher}
        if self.widths is not None:
            make = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            dressed[PROJECTION] = make(jax.random.fold_in(key, 1), self.widths)
        return dressed

    def dress_axes(self, axes: Params) -> Params:
        of_teacher = abstract(self.teacher)[1]
        if self.quantize:
            one = lambda a: axes_of(a, self.quantize) if is_matrix(a) else a
            of_teacher = jax.tree.map(one, of_teacher, is_leaf=is_axes)
        dressed = {**self.inner.dress_axes(axes), TEACHER: of_teacher}
        if self.widths is not None:
            dressed[PROJECTION] = Axes((None, None), (0,))
        return dressed

    def undress(self, params: Params) -> Params:
        return {name: x for name, x in params.items() if name not in (TEACHER, PROJECTION)}

    def chooses(self, path: str) -> bool:
        return not path.startswith(f"{TEACHER}.") and self.inner.chooses(path)


@functools.lru_cache(maxsize=2)
def read_teacher(path: str, teacher: ModelConfig) -> Params:
    """The parameters in a folder. Raises UserError where there are none, or those of another model."""
    folder = expand(path)
    with sharding.no_mesh():
        found = convert.load(folder)[1] if is_model(folder) else start.read_model(folder)[1]
        start.compare(folder, found := leaves.dense(found), teacher)
        return jax.device_get(found)
