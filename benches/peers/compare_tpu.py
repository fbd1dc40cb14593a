"""Compiles the step of the JAX peer and ours for a TPU that is not there, and rewrites the TPU table of docs/performance.md.

    compare_tpu.py SWITCHYARD LIBTPU WORK PAGE TOPOLOGY ..

A topology is one chip, such as v5e:1x1. The compiler counts the body of a loop once, so FLOPs and bytes are those of our step with all blocks
unrolled, which is what the peer is; memory and compile time are given for the scanned form too. Measurements stay in WORK, and what is
there is not compiled again.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

NAME = "small"
FORMS = ["einsum", "gather", "scatter"]
OURS = {"ours, unrolled": ["model.scan_blocks=false"], "ours, scanned": []}


def peer(libtpu, files, topology, form):
    """In a process of its own: libtpu ends the process on many mistakes."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "TPU_LIBRARY_PATH": str(libtpu), "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_LOG_DIR": "disabled", "TPU_WORKER_HOSTNAMES": "localhost"}
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from safetensors.numpy import load_file

    import jax_peer

    config = json.loads(files["json"].read_text())
    weights = {k: v for k, v in load_file(files["params"]).items() if "/" in k and not k.startswith("optimizer/")}
    params = jax_peer.unstack(config["model"], weights)
    batch = load_file(files["batch"])
    state = params, [jax_peer.first_slots(w) for w in jax.tree.leaves(params)], jnp.float32(1)
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology, chips_per_host_bounds=(1, 1, 1))
    place = jax.sharding.SingleDeviceSharding(chips.devices[0])
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    arguments = jax.tree.map(shape, (state, (batch["inputs"], batch["targets"])))
    step = jax.jit(lambda state, batch: jax_peer.step(config, form, state, batch), donate_argnums=0)
    lowered = step.lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds, cost, memory = time.perf_counter() - start, compiled.cost_analysis(), compiled.memory_analysis()
    return {"flops": cost["flops"], "bytes": cost["bytes accessed"], "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes, "seconds": seconds}


def own(switchyard, topology, changes):
    from compare import settings

    more = [part for change in changes for part in ("--set", change)]
    command = [switchyard, "aot", *settings(NAME), *more, "--topology", topology, "--timeout", "3000", "--json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["compiler"]
    memory = found["memory"]
    return {"flops": found["flops"], "bytes": found["bytes_accessed"], "arguments": memory["argument_bytes"],
            "temporaries": memory["temporary_bytes"], "seconds": found["compile_seconds"]}


def row(topology, name, found, scanned):
    counts = ["", ""] if scanned else [f"{found['flops'] / 1e9:.0f}", f"{found['bytes'] / 1e9:.1f}"]
    sizes = [f"{found[key] / 2**30:.2f}" for key in ("arguments", "temporaries")]
    return [topology, name, *counts, *sizes, f"{found['seconds']:.0f}"]


HEAD = ["chip", "step", "GFLOP", "GB accessed", "arguments GiB", "temporaries GiB", "compile s"]


def main():
    if sys.argv[1] == "--peer":
        libtpu, work, topology, form = sys.argv[2:]
        from compare import prepare
        print(json.dumps(peer(libtpu, prepare(None, pathlib.Path(work), NAME), topology, form)))
        return
    switchyard, libtpu, work, page, *topologies = sys.argv[1:]
    work, page = pathlib.Path(work), pathlib.Path(page)
    work.mkdir(parents=True, exist_ok=True)
    from compare import prepare
    prepare(switchyard, work, NAME)
    rows = []
    for topology in topologies:
        programs = {name: lambda changes=changes: own(switchyard, topology, changes) for name, changes in OURS.items()}
        for form in FORMS:
            command = [sys.executable, __file__, "--peer", libtpu, work, topology, form]
            programs[f"jax {form}"] = lambda command=command: json.loads(
                subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE).stdout)
        for name, measure in programs.items():
            kept = work / f"{NAME}.{topology}.{name}.json".replace(" ", "_").replace(":", "_")
            if not kept.exists():
                print(f"{topology}, {name} ...", file=sys.stderr, flush=True)
                kept.write_text(json.dumps(measure()))
            rows.append(row(topology, name, json.loads(kept.read_text()), "scanned" in name))
    lines = ["| " + " | ".join(cells) + " |" for cells in [HEAD, ["---"] * len(HEAD), *rows]]
    print("\n".join(lines))
    text = re.sub(r"(?<=<!-- tpu peers -->\n).*?(?=<!-- end of tpu peers -->)", lambda _: "\n".join(lines) + "\n", page.read_text(), flags=re.S)
    page.write_text(text)


main()
