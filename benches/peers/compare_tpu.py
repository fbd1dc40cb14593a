"""Compiles the step of the JAX peer and ours for TPUs that are not there, and rewrites the TPU table of docs/performance.md.

    compare_tpu.py SWITCHYARD LIBTPU WORK PAGE TOPOLOGY ..

Both compiled modules are read by `switchyard inspect --topology`, so that one model gives the bytes and the time of both; FLOPs are
counted in both modules before they are compiled. JAX cannot read every module that libtpu made for it, so libtpu is asked to leave it in
a folder. Measurements stay in WORK, and what is there is not compiled again.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from compare import overrides, prepare, rewrite, settings

NAME = "small"
# On 16 chips: the batch of one chip, the axes of its mesh.
MESH = {"data": 2, "expert": 8}
SCANNED = "ours, gather, scanned"
OURS = {
    "ours, gather": [],
    "ours, gather, scores again": ["model.remat=scores"],
    "ours, einsum": ["model.moe.dispatch=einsum"],
    SCANNED: ["model.scan_blocks=true"],
}
PEERS = {"jax gather": "gather", "jax scatter": "scatter", "jax einsum": "einsum"}


def chips(topology):
    return math.prod(int(size) for size in topology.split(":")[1].split("x"))


def placement(config, topology):
    """Our options for a topology: one chip, or the mesh with as much on each."""
    if chips(topology) == 1:
        return []
    assert chips(topology) == MESH["data"] * MESH["expert"], topology
    sequences = config["batch"]["sequences"] * chips(topology)
    mesh = ",".join(f"{axis}={n}" for axis, n in MESH.items())
    return ["--mesh", mesh, *overrides([f"batch.sequences={sequences}"])]


def estimate(switchyard, topology, module):
    found = subprocess.run(
        [switchyard, "inspect", module, "--topology", topology, "--json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(found)[0]["compiled"]


def figures(flops, temporaries, accessed, seconds, time):
    """`accessed` is the compiler's own count, which has loop bodies once and what lies beside the arithmetic too."""
    return {"flops": flops, "temporaries": temporaries, "accessed": accessed, "seconds": seconds,
            "bytes": time["memory_bytes"], "step": time["step_seconds"], "links": time["interconnect_seconds"]}


def own(switchyard, work, config, topology, changes):
    command = [switchyard, "aot", *settings(NAME), *placement(config, topology), *overrides(changes),
               "--topology", topology, "--json", "--out", work / "aot"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    said = report["compiler"]
    module = work / "aot" / f"train_step.{topology.replace(':', '-')}.optimized.hlo.pb"
    return figures(report["graph"]["flops"]["dot"], said["memory"]["temporary_bytes"], said["bytes_accessed"],
                   said["compile_seconds"], estimate(switchyard, topology, module))


def module(dump):
    """The module in a dump of XLA: its first field, which starts with a tag and a length in groups of seven bits."""
    length = shift = 0
    for start, byte in enumerate(dump[1:], 2):
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return dump[start:start + length]


def peer(switchyard, libtpu, work, files, topology, form):
    """In a process of its own: libtpu ends the process on many mistakes."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "TPU_LIBRARY_PATH": libtpu, "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_LOG_DIR": "disabled", "TPU_WORKER_HOSTNAMES": "localhost"}
    import jax
    import jax.numpy as jnp
    from jax.experimental import mesh_utils, topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from safetensors.numpy import load_file

    import jax_peer
    import turns

    config = json.loads(files["json"].read_text())
    params = jax_peer.unstack(config["model"], turns.weights(files["params"]))
    count, batch = chips(topology), load_file(files["batch"])
    host = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **host)
    shape = tuple(MESH.values()) if count > 1 else (1, 1)
    # Of 4 x 4 chips, an axis of 8 takes one dimension and half of the other.
    mesh = Mesh(mesh_utils.create_device_mesh(shape, devices.devices, allow_split_physical_axes=True), tuple(MESH))
    sharding = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    split = lambda path, x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding("expert" if any(getattr(key, "key", "") == "experts" for key in path) else None))
    params = jax.tree_util.tree_map_with_path(split, params)
    slots = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=w.sharding), jax.eval_shape(jax_peer.first_slots, w))
             for w in jax.tree.leaves(params)]
    state = params, slots, jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding())
    tokens = lambda x: jax.ShapeDtypeStruct((count * x.shape[0], x.shape[1]), x.dtype, sharding=sharding(jax_peer.ALL))
    arguments = state, (tokens(batch["inputs"]), tokens(batch["targets"]))

    step = lambda state, batch: jax_peer.step(config, form, state, batch, mesh if count > 1 else None)
    # Each chip has the tokens, the group and the products of one chip alone.
    alone = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, (batch["inputs"], batch["targets"])))
    whole = jax.jit(lambda state, batch: jax_peer.step(config, form, state, batch)).lower(*alone)
    before, after = (work / f"jax.{form}.{topology.replace(':', '-')}.{kind}.hlo.pb" for kind in ("before", "optimized"))
    before.write_bytes(whole.compiler_ir("hlo").as_serialized_hlo_module_proto())
    counted = subprocess.run([switchyard, "inspect", before, "--json"], check=True, stdout=subprocess.PIPE).stdout
    outputs = jax.tree.map(lambda x: x.sharding, state), sharding()
    lowered = jax.jit(step, donate_argnums=0, out_shardings=outputs).lower(*arguments)
    with tempfile.TemporaryDirectory() as left:
        start = time.perf_counter()
        compiled = lowered.compile(compiler_options={"xla_dump_to": left, "xla_dump_hlo_as_proto": True})
        seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
        [dump] = pathlib.Path(left).glob("*.after_codegen.hlo.pb")
        after.write_bytes(module(dump.read_bytes()))
    return figures(json.loads(counted)[0]["flops"]["dot"], memory.temp_size_in_bytes,
                   compiled.cost_analysis()["bytes accessed"], seconds, estimate(switchyard, topology, after))


HEAD = ["chips", "step", "GFLOP", "temporaries GiB", "GB accessed, by the compiler", "GB moved", "estimated ms", "of it collectives",
        "compile s"]


def row(topology, name, found, best):
    def share(key, scale, form):
        if key == "accessed" and name == SCANNED:
            return ""
        text = form % (found[key] * scale)
        return text if found is best else f"{text} ({found[key] / best[key]:.2f})"

    return [topology, name, share("flops", 1e-9, "%.0f"), share("temporaries", 2**-30, "%.2f"), share("accessed", 1e-9, "%.1f"),
            share("bytes", 1e-9, "%.2f"), share("step", 1e3, "%.1f"),
            f"{1e3 * found['links']:.1f}", f"{found['seconds']:.0f}"]


def rows(work, topology):
    """Those that are measured; in parentheses the ratio to the peer that is fastest by the estimate."""
    found = {name: kept(work, topology, name) for name in [*OURS, *PEERS]}
    found = {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}
    peers = [figures for name, figures in found.items() if name in PEERS]
    best = min(peers, key=lambda figures: figures["step"], default=None)
    return [row(topology, name, figures, best or figures) for name, figures in found.items()]


def kept(work, topology, name):
    return work / f"{NAME}.{topology}.{name}.json".replace(", ", " ").replace(" ", "_").replace(":", "-")


def main():
    if sys.argv[1] == "--peer":
        switchyard, libtpu, work, topology, form = sys.argv[2:]
        work = pathlib.Path(work)
        print(json.dumps(peer(switchyard, libtpu, work, prepare(switchyard, work, NAME), topology, form)))
        return
    switchyard, libtpu, work, page, *topologies = sys.argv[1:]
    work, page = pathlib.Path(work), pathlib.Path(page)
    work.mkdir(parents=True, exist_ok=True)
    config = json.loads(prepare(switchyard, work, NAME)["json"].read_text())
    for topology in topologies:
        for name in [*OURS, *PEERS]:
            path = kept(work, topology, name)
            if path.exists():
                continue
            print(f"{topology}, {name} ...", file=sys.stderr, flush=True)
            if name in OURS:
                found = own(switchyard, work, config, topology, OURS[name])
            else:
                command = [sys.executable, __file__, "--peer", switchyard, libtpu, work, topology, PEERS[name]]
                found = json.loads(subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE).stdout)
            path.write_text(json.dumps(found))
    rewrite(page, "tpu", HEAD, [row for topology in topologies for row in rows(work, topology)])


if __name__ == "__main__":
    main()
