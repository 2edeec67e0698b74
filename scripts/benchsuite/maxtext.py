"""The other system of `scripts/bench tpu`: MaxText's own training step, compiled as its `train_compile` does.

    python -m benchsuite.maxtext JOB.json

Runs in its own environment and imports nothing of jaxlm. The job names a topology, the devices of the mesh's axes, and
MaxText's settings.
"""

import importlib.metadata
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

AXES = {"data": "data", "fsdp": "fsdp", "tensor": "tensor_sequence", "expert": "expert"}  # ours, theirs


def main(job: dict[str, Any], started: float) -> None:
    import jax

    jax.config.update("jax_default_prng_impl", "unsafe_rbg")
    import maxtext  # pyright: ignore[reportMissingImports]
    import maxtext.trainers.pre_train.train_compile as tc  # pyright: ignore[reportMissingImports]

    from benchsuite.program import Dumped

    base = Path(maxtext.__file__).parent / "configs" / "base.yml"
    config = tc.pyconfig.initialize(["", str(base), *_settings(job)])
    mesh = tc.get_topology_mesh(config)
    state, keywords, shardings, _, model = tc.get_shaped_inputs(mesh, config)
    params, shardings = tc.sharding.maybe_update_params_sharding_with_opt(config, shardings)
    given = tc.sharding.build_zero1_input_state_mesh_shardings(config, shardings, params)
    batch = tc.sharding.get_input_data_sharding(config, mesh)
    step, into, out, static, donated = tc.maxtext_utils.get_functional_train_with_signature(
        tc.train.train_step, batch, given, model, config, params
    )
    with jax.set_mesh(mesh), tc.axis_rules(config.logical_axis_rules):
        jitted = jax.jit(step, in_shardings=into, out_shardings=out, static_argnums=static, donate_argnums=donated)
        lowered = jitted.lower(*state, **keywords)
    dumped = Dumped(Path(job["folder"]))
    dumped.tell(
        started=started,
        axes=list(mesh.axis_names),
        shape=mesh.devices.shape,
        slices=[getattr(device, "slice_index", 0) for device in mesh.devices.flat],
        params=None,
        versions={name: importlib.metadata.version(name) for name in ("maxtext", "jax", "libtpu")},
    )
    with jax.set_mesh(mesh):
        lowered.compile(compiler_options=dumped.options())


def _settings(job: dict[str, Any]) -> list[str]:
    """A job as MaxText's command line."""
    from maxtext.utils.accelerator_to_spec_map import (  # pyright: ignore[reportMissingImports]
        UserFacingNameToSystemCharacteristics as known,
    )

    before, _, shape = job["topology"].rpartition("xv")
    count, shape = (int(before), "v" + shape) if before else (1, shape)
    name = next(k for k, v in known.items() if v.topology_name == shape.replace("v5p", "v5"))
    mesh = {axis: n for axis, n in job["mesh"].items() if axis != "data"}
    devices = count * math.prod(mesh.values())
    return [
        f"compile_topology={name}",
        f"compile_topology_num_slices={count}",
        f"per_device_batch_size={job['batch'] / devices}",
        f"max_target_length={job['T']}",
        "ici_data_parallelism=1",
        f"dcn_data_parallelism={count}",
        *(f"ici_{AXES[axis]}_parallelism={n}" for axis, n in mesh.items()),
        "base_output_directory=o",
        "run_name=x",
        "enable_checkpointing=false",
        "dataset_type=synthetic",
        "log_config=false",
        "jax_cache_dir=",
        "attention=flash",
        "allow_split_physical_axes=true",
        *job["settings"],
    ]


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), time.time())
