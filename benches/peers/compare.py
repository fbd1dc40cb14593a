"""Runs peers in turns with `switchyard bench` on the same weights and tokens, and rewrites the table of docs/performance.md.

    compare.py SWITCHYARD WORK PAGE NAME [PEER ..]

NAME is one of `CONFIGS`; WORK is a folder for what is made on the way and for the measurements, of which the table shows all that are
there. Fails where losses do not agree. `make bench-peers` does all that.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).parent
# A configuration and what the bench changes. Without noise in the router, so that losses can agree.
QUIET = ["model.moe.router.exploration.kind=argmax"]
# The rate of the other two sizes, which is the one that peers know.
SCHEDULE = 'schedule={"kind": "inverse_square_root"}'
CONFIGS = {
    "small": ("graphs/small.json", [
        "model.num_encoder_layers=6", "model.num_decoder_layers=6", "batch.target_length=64"]),
    "switch-base-8": ("graphs/switch-base-8.json", [
        "model.compute_dtype=float32", "model.dropout=0", "model.moe.expert_dropout=0",
        "batch.sequences=8", "batch.input_length=256", "batch.target_length=64"]),
} | {f"demo-{n}-experts": ("graphs/demo.json", [f"model.moe.num_experts={n}", SCHEDULE]) for n in (8, 16, 32, 64, 128, 256)}
PEERS = {"jax einsum": "jax_peer.py", "jax gather": "jax_peer.py", "jax scatter": "jax_peer.py", "torch": "torch_peer.py"}
# What `transformers` computes: capacity per sequence, in slots. Only losses are compared with it.
THERE = ["model.moe.group=sequence", "model.moe.capacity.kind=absolute", "model.moe.capacity.train=64"]
ROUNDS, WARM_UP = 5, 1
# Of the loss over the first steps; beyond the first, rounding decides between experts of equal rank.
TOLERANCE = 2e-3


# What `switchyard` sets for itself (src/cli/launch.rs), for all programs alike.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"}


class Program:
    """A program that runs a step for each line that it reads."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [str(a) for a in arguments], env=os.environ | ALLOCATOR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = json.loads(self.process.stdout.readline())

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def overrides(changes):
    return [part for change in changes for part in ("--set", change)]


def settings(name):
    path, changes = CONFIGS[name]
    return [path, *overrides(changes + QUIET)]


def prepare(switchyard, work, name):
    """The resolved configuration, its first parameters and a batch, as files."""
    files = {kind: work / f"{name}.{kind}" for kind in ("artifact", "json", "params", "batch", "seed")}
    if not files["batch"].exists():
        subprocess.run([switchyard, "compile", *settings(name), "--program", "init", "-o", files["artifact"]], check=True)
        config = json.loads((files["artifact"] / "manifest.json").read_text())["config"]
        files["json"].write_text(json.dumps(config))
        save_file({"seed": np.array([0, config["seed"]], np.uint32)}, files["seed"])
        subprocess.run([switchyard, "run", files["artifact"], "--program", "init", "--inputs", files["seed"],
                        "--outputs", files["params"]], check=True)
        dice, sizes = np.random.default_rng(0), config["batch"]
        draw = lambda length: dice.integers(3, config["model"]["vocab_size"], (sizes["sequences"], length), dtype=np.int32)
        save_file({"inputs": draw(sizes["input_length"]), "targets": draw(sizes["target_length"])}, files["batch"])
    return files


def bench(switchyard, name, files, *changes):
    return Program(switchyard, "bench", *settings(name), *overrides(changes), "--turns", "--inputs", files["batch"])


def agree(what, ours, theirs):
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))
    print(f"{what}: losses {ours} and {theirs}", file=sys.stderr, flush=True)
    if not difference < TOLERANCE:
        raise SystemExit(f"{what}: losses differ by {difference:.1e}")
    return difference


def measure(switchyard, name, peer, files):
    form = peer.split()[-1]
    other = Program(sys.executable, HERE / PEERS[peer], form, files["json"], files["params"], files["batch"])
    own = bench(switchyard, name, files)
    turns = [(own.step(), other.step()) for _ in range(WARM_UP + ROUNDS)]
    own.close(), other.close()
    losses = [[turn["loss"] for turn in turns[:2]] for turns in zip(*turns)]
    if peer == "torch":
        like = bench(switchyard, name, files, *THERE)
        losses = [[like.step()["cross_entropy"]], losses[1][:1]]
        like.close()
    spread = lambda side: sorted(turn[side]["seconds"] for turn in turns[WARM_UP:])
    return {
        "ours": own.start | {"seconds": spread(0)}, "theirs": other.start | {"seconds": spread(1)},
        "difference": agree(f"{name}, {peer}", *losses),
    }


def row(name, peer, found):
    ours, theirs = found["ours"], found["theirs"]
    middle = lambda times: times[len(times) // 2]
    span = lambda t: f"{middle(t):.3g} ({t[0]:.3g}, {t[-1]:.3g})"
    cost = lambda side: f"{side['emission']:.3f} / {side['compile']:.1f}" if side else ""
    start = {key: value for key, value in theirs.items() if key != "seconds"}
    ratio = middle(ours["seconds"]) / middle(theirs["seconds"])
    return [name, peer, span(ours["seconds"]), span(theirs["seconds"]), f"{ratio:.2f}", cost(ours), cost(start),
            f"{found['difference']:.0e}"]


HEAD = ["size", "peer", "our step s (min, max)", "its step s (min, max)", "ours / its", "our emission / compile s",
        "its trace and lower / compile s", "losses differ by"]


def rewrite(page, mark, head, rows):
    """Prints a table and puts it between the marks of a page."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    print("\n".join(lines))
    between = rf"(?<=<!-- {mark} -->\n).*?(?=<!-- end of {mark} -->)"
    page.write_text(re.sub(between, lambda _: "\n".join(lines) + "\n", page.read_text(), flags=re.S))


def measured(work):
    found = {(name, peer): work / f"{name}.{peer.replace(' ', '_')}.json" for name in CONFIGS for peer in PEERS}
    return [row(*key, json.loads(path.read_text())) for key, path in found.items() if path.exists()]


def main():
    switchyard, work, page, name, *peers = sys.argv[1:]
    work, page = pathlib.Path(work), pathlib.Path(page)
    work.mkdir(parents=True, exist_ok=True)
    files = prepare(switchyard, work, name)
    for peer in peers or PEERS:
        found = measure(switchyard, name, peer, files)
        (work / f"{name}.{peer.replace(' ', '_')}.json").write_text(json.dumps(found))
    rewrite(page, "peers", HEAD, measured(work))


if __name__ == "__main__":
    main()
