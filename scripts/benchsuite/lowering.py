"""The process that lowers and compiles a step of jaxlm for `program.made`: python -m benchsuite.lowering JOB.json"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(job: dict[str, Any], started: float) -> None:
    import importlib.metadata

    import jax

    from benchsuite.program import Dumped
    from jaxlm.config import resolve
    from jaxlm.plan import topology as topologies

    run, where = resolve(job["config"], job["overrides"]), topologies.parse(job["topology"])
    mesh = topologies.mesh(where, run.mesh)
    lowered, more = (_decoding if job.get("rows") else _training)(run, mesh, job)
    dumped = Dumped(Path(job["folder"]))
    dumped.tell(
        started=started,
        axes=mesh.axis_names,
        shape=mesh.devices.shape,
        slices=topologies.slice_of(where, mesh).flatten().tolist(),
        versions={name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
        **more,
    )
    with jax.set_mesh(mesh):
        lowered.compile(compiler_options=dumped.options())


def _training(run: Any, mesh: Any, job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import jax

    from jaxlm.train.setup import Setup

    setup = Setup(run, mesh)
    return setup.lower(), {"params": sum(x.size for x in jax.tree.leaves(setup.state.params))}


def _decoding(run: Any, mesh: Any, job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import jax

    from jaxlm.decode.abstract import abstract_decoding, lower_decoding
    from jaxlm.train.memory import bytes_per_device
    from jaxlm.tune.quantize import quantize

    c = run.model
    store = {"store": lambda params: quantize(c, params, job["stored"])} if job["stored"] else {}
    params, state = abstract_decoding(c, mesh, job["rows"], job["length"], **store)
    here = lambda x: int(jax.numpy.prod(jax.numpy.array(x.sharding.shard_shape(x.shape))))
    tables = 0 if c.tied else bytes_per_device(params["embed"])
    told = {
        "params": sum(x.size for x in jax.tree.leaves(params)),
        "cache": sorted({here(x) for x in jax.tree.leaves(state.caches)}),
        "cache_bytes": bytes_per_device(state.caches),
        "weights": bytes_per_device(params) - tables,
    }
    return lower_decoding(c, mesh, params, state), told


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), time.time())
