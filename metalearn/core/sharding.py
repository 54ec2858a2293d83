"""The task axis over devices: meta-parameters replicated, a batch of tasks split along its leading axis.

The same code runs on one CPU, several host devices, and several processes: a mesh with the axis "tasks". Devices that
a small batch of tasks leaves idle can form a second axis, "parts", and share the work on each task (parts.py).
On a CPU, loops of small products do not use a second core by themselves, so one host device per core
(`jax.config.update("jax_num_cpu_devices", os.cpu_count())` before JAX is first used) is the fast way there too.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "tasks"
PARTS = "parts"


def task_mesh(devices: Sequence[jax.Device] | None = None, tasks: int | None = None, parts: bool = False) -> Mesh:
    """A mesh of `devices` (default: all devices of all processes) with the one axis "tasks".

    Given the number of `tasks` in a batch, as many of the devices as divide it (in a single process). With `parts`, a
    second axis "parts" takes what is left: n devices for each of those.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if tasks is not None and jax.process_count() == 1:
        count = max(n for n in range(1, count + 1) if tasks % n == 0)
    shape, axes = ((count, len(devices) // count), (AXIS, PARTS)) if parts else ((count,), (AXIS,))
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.make_mesh(shape, axes, devices=devices[: int(np.prod(shape))], axis_types=kinds)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of `tree` on every device of the mesh."""
    copied = jax.tree.map(lambda x: jax.numpy.array(x, copy=True), tree)  # the caller's own arrays may be donated later
    return jax.device_put(copied, NamedSharding(mesh, P()))


def shard_tasks(tasks: Any, mesh: Mesh) -> Any:
    """Places a batch of tasks, leaves [tasks, ...], on the mesh; in several processes each passes its own tasks.

    A batch that lies there already is returned as it is, so that a loop may place the next one while this one is used.

    Raises:
        ValueError: the number of tasks is no positive multiple of the number of (local) devices.
    """
    sharding = NamedSharding(mesh, P(AXIS))
    leaves = jax.tree.leaves(tasks)
    if leaves and all(isinstance(leaf, jax.Array) and leaf.sharding == sharding for leaf in leaves):
        return tasks
    local = mesh.local_mesh.shape[AXIS]
    counts = {np.shape(leaf)[:1] for leaf in leaves}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(f"the leaves of a batch of tasks must share their leading axis, but these have {counts}")
    ((count,),) = counts
    if count == 0 or count % local:
        raise ValueError(
            f"{count} tasks a batch cannot be split over {local} devices: take a multiple of {local}, "
            f"or pass a smaller mesh, task_mesh(tasks={count})"
        )
    if jax.process_count() == 1:
        return jax.device_put(tasks, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tasks)
