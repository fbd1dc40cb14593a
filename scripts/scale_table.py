"""Puts the reports of `switchyard aot --json` into the tables of docs/scale.md.

    scale_table.py FOLDER DOCUMENT

What stands between the marks of the document is replaced: the tables of presets on TPUs and on GPUs, in the order of
scripts/scale.txt, and the comparison with the paper. A table without a single report stays as it is.
Needs Python 3.8 or later, standard library only.
"""

import json
import os
import sys

HEADER = [
    "preset", "topology", "mesh and settings", "tokens/step", "fits", "memory / limit", "state", "temporaries", "dot FLOPs",
    "step", "tokens/s", "share of peak", "compile",
]

# Switch Transformers, Table 1: examples per second on 32 cores of TPU v3, and our rows of the same models.
PAPER_HEADER = [
    "model", "capacity factor", "paper, examples/s", "over T5-Base", "estimate, examples/s", "over T5-Base", "products",
    "kernels", "collectives",
]
PAPER = [
    ("T5-Base", "", 1600, "t5-base-v5e-32"),
    ("T5-Large", "", 470, "t5-large-v5e-32"),
    ("MoE-Base, top-2", "2.0", 840, "moe-base-top2-128-v5e-32"),
    ("Switch-Base", "2.0", 860, "switch-base-128-cf2-v5e-32"),
    ("MoE-Base, top-2", "1.25", 790, "moe-base-top2-128-cf1.25-v5e-32"),
    ("Switch-Base", "1.25", 910, "switch-base-128-v5e-32"),
    ("MoE-Base, top-2", "1.0", 860, "moe-base-top2-128-cf1-v5e-32"),
    ("Switch-Base", "1.0", 1000, "switch-base-128-cf1-v5e-32"),
]


def gib(count):
    return "%.2f GiB" % (count / 2**30)


def milliseconds(seconds):
    return "%.1f ms" % (1e3 * seconds)


def short(override):
    """An override by the last parts of its path, as far as they say what it is."""
    for prefix in ("mesh.", "batch.", "model.moe.", "model."):
        if override.startswith(prefix):
            return override[len(prefix):]
    return override[len("mesh="):] if override.startswith("mesh=") else override


def row(report, overrides):
    graph, compiler, model = report["graph"], report["compiler"], report["model"]
    settings = " ".join(short(override) for override in overrides)
    head = [report["name"], report["topology"], settings, str(graph["tokens_per_step"])]
    flops = "%.2f T" % (graph["flops"]["dot"] / 1e12)
    if not report["fits"]:
        shortage = report["shortage"]
        needed, limit = shortage["needed_bytes"], shortage["available_bytes"]
        memory = "%s / %s" % (gib(needed), gib(limit)) if needed and limit else "?"
        return head + ["no", memory, gib(graph["state_bytes"]), "", flops, "", "", "", ""]
    memory = compiler["memory"]
    total = sum(memory[part] for part in ("argument_bytes", "output_bytes", "temporary_bytes", "code_bytes"))
    total -= memory["alias_bytes"]
    return head + [
        "yes",
        "%s / %s" % (gib(total), gib(compiler["memory_limit_bytes"])),
        gib(graph["state_bytes"]),
        gib(memory["temporary_bytes"]),
        flops,
        milliseconds(model["step_seconds"]),
        "%.0f k" % (model["tokens_per_second"] / 1e3),
        "%.0f %%" % (100 * model["share_of_peak"]),
        "%.0f s" % compiler["compile_seconds"],
    ]


def examples_per_second(report, overrides):
    sequences = [o.split("=")[1] for o in overrides if o.startswith("batch.sequences=")]
    return int(sequences[0]) / report["model"]["step_seconds"]


def comparison(reports):
    """The rows of the paper whose reports are there and fit, with speeds over that of T5-Base."""
    fitting = {name: (report, overrides) for name, report, overrides in reports if report["fits"]}
    if PAPER[0][3] not in fitting:
        return []
    base, rows = examples_per_second(*fitting[PAPER[0][3]]), []
    for model, factor, speed, name in PAPER:
        if name not in fitting:
            continue
        time, estimate = fitting[name][0]["model"], examples_per_second(*fitting[name])
        kernels = time["step_seconds"] - time["interconnect_seconds"]
        parts = (time["compute_seconds"], kernels, time["interconnect_seconds"])
        ratios = ["%.2f" % (speed / PAPER[0][2]), "%.0f" % estimate, "%.2f" % (estimate / base)]
        rows.append([model, factor, str(speed)] + ratios + [milliseconds(part) for part in parts])
    return rows


def read(folder):
    """(name, report, overrides) of each line of scripts/scale.txt that has a report."""
    with open(os.path.join(os.path.dirname(__file__), "scale.txt")) as lines:
        rows = [line.split() for line in lines]
    found = []
    for name, _, _, *overrides in (words for words in rows if words and not words[0].startswith("#")):
        path = os.path.join(folder, name + ".json")
        if os.path.exists(path):
            with open(path) as file:
                found.append((name, json.load(file), overrides))
    return found


def table(header, rows):
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header)] + rows]
    return "\n".join(lines)


def put(text, mark, header, rows):
    start, end = "<!-- %s -->" % mark, "<!-- end of %s -->" % mark
    if not rows:
        return text
    before, rest = text.split(start)
    return before + start + "\n" + table(header, rows) + "\n" + end + rest.split(end)[1]


def is_tpu(report):
    return report["topology"].startswith(("v", "tpu"))


def main(folder, document):
    reports = read(folder)
    with open(document) as file:
        text = file.read()
    rows = {True: [], False: []}
    for _, report, overrides in reports:
        rows[is_tpu(report)].append(row(report, overrides))
    text = put(text, "table", HEADER, rows[True])
    text = put(text, "gpus", HEADER, rows[False])
    text = put(text, "comparison", PAPER_HEADER, comparison(reports))
    with open(document, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:3])
