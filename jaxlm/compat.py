"""What differs between the oldest releases that jaxlm runs on, which are those of Colab, and the newest.

Nothing else asks for a version. Each function names the release of jax that lets it go.
"""

import contextlib
import dataclasses
import importlib.metadata
import inspect
import logging
import re
from collections.abc import Iterator
from typing import Any

from jaxlm.errors import UserError

FLOORS = {"jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2"}  # as in pyproject.toml


def outdated() -> str | None:
    """One line on an installed library below its floor, None where there is none."""
    for name, floor in FLOORS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"jaxlm needs {name}, which is not installed: pip install '{name}>={floor}'"
        if _numbers(found) < _numbers(floor):
            return f"jaxlm needs {name} {floor} or newer, and this is {found}: pip install --upgrade '{name}>={floor}'"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def older(*release: int) -> bool:
    """Whether this jax is older than a release, such as `older(0, 10)`."""
    import jax

    return jax.__version_info__ < release


def concrete_mesh() -> Any:
    """The mesh that is set, with its devices. jax 0.8 has jax.sharding.get_mesh."""
    import jax

    if hasattr(jax.sharding, "get_mesh"):
        return jax.sharding.get_mesh()
    from jax._src import mesh

    return mesh.get_concrete_mesh()


def abstract_device(kind: str, platform: str) -> Any:
    """A device to trace for. From jax 0.8 on it says its platform itself."""
    from jax.sharding import AbstractDevice

    make: Any = AbstractDevice
    told = {"platform": platform} if "platform" in inspect.signature(AbstractDevice).parameters else {}
    return make(device_kind=kind, num_cores=1, **told)


def device_platform(device: Any) -> str:
    """ "cpu", "gpu" or "tpu" of an `abstract_device`. jax 0.8."""
    if "platform" in {field.name for field in dataclasses.fields(device)}:
        return device.platform
    kind = device.device_kind
    return "cpu" if kind == "cpu" else "tpu" if kind.startswith("TPU") else "gpu"


def with_sharding_constraint(x: Any, spec: Any) -> Any:
    """jax.lax.with_sharding_constraint, left out where some axes of the mesh are manual, which jax cannot say yet: it
    is a hint there. And jax 0.7 wants the mesh itself where it has no devices. jax 0.10."""
    import jax

    if not older(0, 10):
        return jax.lax.with_sharding_constraint(x, spec)
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.manual_axes else jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, spec))


def offload_needs_more(platform: str, devices: int) -> None:
    """Raises UserError where optimizer state cannot lie in host memory: on several CPU devices. jax 0.10."""
    import jax

    if older(0, 10) and platform == "cpu" and devices > 1:
        raise UserError(
            f"optimizer.offload on several CPU devices needs jax 0.10 or newer, and this is {jax.__version__}: "
            "pip install --upgrade jax"
        )


def leave_signals_alone() -> None:
    """Has jax.distributed not take SIGTERM. jax 0.7 has no such option: whoever wants the signal sets a handler after
    joining, which replaces jax's. jax 0.10."""
    import jax

    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)


@contextlib.contextmanager
def about_workers_unheard() -> Iterator[None]:
    """Drops what grain says of profiling its worker processes, of which there are none, when imported. jax 0.10."""
    log, unheard = logging.getLogger("absl"), lambda record: "worker profiling" not in record.getMessage()
    log.addFilter(unheard)
    try:
        yield
    finally:
        log.removeFilter(unheard)


def leaves_unreduced() -> bool:
    """Whether a product may leave its sum over devices for later; jax 0.7 adds such parts up wrongly. jax 0.10."""
    return not older(0, 10)


def draws_rows_apart() -> bool:
    """Whether rows of an explicit mesh may each be drawn with a key of its own; jax 0.7 cannot lower that. jax 0.10."""
    return not older(0, 10)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many it carries, from its equation. jax 0.12 has ft_in."""
    if "ft_in" in params:
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def partitions(spec: Any) -> tuple[Any, ...]:
    """The entries of a PartitionSpec, one a dimension. jax 0.10 has them as an attribute."""
    return spec.partitions if hasattr(spec, "partitions") else tuple(spec)


def kernel_name(params: dict[str, Any]) -> str:
    """Of a Pallas kernel, from its equation, or of its function. jax 0.10 has it as a parameter."""
    return str(params.get("name") or params["jaxpr"].debug_info.func_name)


def allow_absent_tpus() -> None:
    """Lets jax lower and compile for TPUs that are only described. jax 0.10 needs no help.

    Before it, lowering asks a backend, which is not here, what kernels libtpu can read, and else writes too new ones.
    And a compiled program asks a described device for its default layouts, which ends the process: jax takes any for
    the default where it is told that the client knows none.
    """
    import jax

    if not older(0, 10):
        return
    from jax._src import xla_bridge
    from jax._src.lib import _jax

    old: Any = xla_bridge
    old.FORCE_FORWARD_COMPAT_LOWERING_PLATFORMS.add("tpu")

    def get_default_layout(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: a described device has no client")

    _jax.CompileOnlyPyClient.get_default_layout = get_default_layout


def bind(eqn: Any, inputs: list[Any]) -> list[Any]:
    """The results of an equation of a jaxpr. From jax 0.10 on its functions are among its parameters."""
    made = eqn.primitive.get_bind_params(eqn.params)
    functions, how = made if isinstance(made, tuple) else ((), made)
    found = eqn.primitive.bind(*functions, *inputs, **how)
    return found if eqn.primitive.multiple_results else [found]
