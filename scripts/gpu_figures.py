"""The figures of scripts/gpu.sh from what its steps left behind, as JSON.

    gpu_figures.py OUT REFERENCE

Needs Python 3.8 or later, standard library only.
"""

import json
import os
import statistics
import sys


def records(folder):
    path = os.path.join(folder, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def values(folder, name):
    found = []
    for record in records(folder):
        value = record.get(name)
        if isinstance(value, (int, float)):
            found.append(value)
    return found


def difference(ours, reference):
    """Largest relative difference of two loss curves, or None if one is missing or shorter."""
    pairs = list(zip(ours, reference))
    if not pairs or len(ours) != len(reference):
        return None
    return max(abs(a - b) / abs(b) for a, b in pairs)


def main(out, reference):
    with open(os.path.join(out, "doctor.json")) as file:
        doctor = json.load(file)["runtime"]
    with open(os.path.join(out, "base8.inspect.json")) as file:
        flops = json.load(file)[0]["flops"]["dot"]
    # The first steps wait for the compiler and for memory.
    rate = statistics.median(values(os.path.join(out, "base8"), "tokens_per_second")[5:])
    with open(os.path.join(out, "base8", "artifact", "manifest.json")) as file:
        config = json.load(file)["config"]
    batch = config["batch"]
    tokens = batch["sequences"] * (batch["input_length"] + batch["target_length"])
    achieved = flops * rate / tokens
    peak = doctor["matmul_flops_per_second"]
    curves = {}
    for name in ("demo-f32", "demo-bf16"):
        ours, theirs = (values(os.path.join(folder, name), "loss") for folder in (out, reference))
        curves[name] = {"gpu": ours, "cpu": theirs, "largest_relative_difference": difference(ours, theirs)}
    figures = {
        "device": doctor["devices"][0]["kind"],
        "plugin": doctor["version"],
        "matmul_bf16_flops_per_second": peak,
        "switch_base_8": {
            "tokens_per_second": rate,
            "dot_flops_per_second": achieved,
            "share_of_measured_peak": achieved / peak,
        },
        "loss_curves": curves,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:3])
