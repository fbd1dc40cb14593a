"""Puts the reports of `switchyard aot --json` into the table of docs/scale.md.

    scale_table.py FOLDER DOCUMENT

The table between the two marks of the document is replaced. Rows come in the order of scripts/scale.txt.
Needs Python 3.8 or later, standard library only.
"""

import json
import os
import sys

START, END = "<!-- table -->", "<!-- end of table -->"
HEADER = [
    "preset", "topology", "devices", "tokens/step", "fits", "memory / limit", "state", "temporaries", "dot FLOPs", "step",
    "tokens/s", "share of peak", "compile",
]


def gib(count):
    return "%.2f GiB" % (count / 2**30)


def row(report):
    graph, compiler, model = report["graph"], report["compiler"], report["model"]
    head = [report["name"], report["topology"], str(report["replicas"]), str(graph["tokens_per_step"])]
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
        "%.1f ms" % (1e3 * model["step_seconds"]),
        "%.0f k" % (model["tokens_per_second"] / 1e3),
        "%.0f %%" % (100 * model["share_of_peak"]),
        "%.0f s" % compiler["compile_seconds"],
    ]


def names():
    with open(os.path.join(os.path.dirname(__file__), "scale.txt")) as lines:
        rows = [line.split() for line in lines]
    return [words[0] for words in rows if words and not words[0].startswith("#")]


def main(folder, document):
    table = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    for name in names():
        path = os.path.join(folder, name + ".json")
        if not os.path.exists(path):
            continue
        with open(path) as file:
            table.append("| " + " | ".join(row(json.load(file))) + " |")
    with open(document) as file:
        text = file.read()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    with open(document, "w") as file:
        file.write(before + START + "\n" + "\n".join(table) + "\n" + END + after)


if __name__ == "__main__":
    main(*sys.argv[1:3])
