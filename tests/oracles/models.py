"""Whole models: what the command computes for a configuration against `model.py` and `jax.grad`, in float64.

`compile` and `run` of the command are used as a user would. The first step of AdamW with zero moments leaves
`(1 - beta1)` times the gradient in `optimizer/m`, so every gradient of the training loss can be read off the state.
"""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import optimizers
from model import total
from report import Row, difference

TOLERANCE = 1e-5
# Of gradients, and of moments made from them: where attention is nearly uniform, terms cancel and float32 keeps fewer digits.
GRADIENT_TOLERANCE = 1e-4

BASE = {
    "model": {
        "d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "scan_blocks": True,
        "positions": {"kind": "relative_buckets", "num_buckets": 8, "max_distance": 16},
        "moe": {"num_experts": 4, "router": {"kind": "switch", "exploration": {"kind": "argmax"}}, "z_loss_coef": 0.1},
    },
    "batch": {"sequences": 4, "input_length": 24, "target_length": 20},
    "loss": {"z_loss": 0.01},
    "optimizer": {"kind": "adamw", "beta1": 0.5},
    "schedule": {"kind": "constant", "rate": 0.01, "warmup_steps": 1},
}
AMPLE = {"train_factor": 4.0, "eval_factor": 4.0}
TIGHT = {"train_factor": 0.5, "eval_factor": 0.75, "minimum": 1}
CAUSAL = {
    "model": {"architecture": "decoder_only", "num_encoder_layers": 0, "num_decoder_layers": 4,
              "scan_blocks": False, "remat": "dots", "moe": {"capacity": TIGHT, "group": {"tokens": 30}}},
    "batch": {"target_length": 24}, "data": {"objective": {"kind": "causal"}},
}
MODELS = {
    "ample capacity": {"model": {"moe": {"capacity": AMPLE}}},
    "tight capacity": {"model": {"moe": {"capacity": TIGHT}}},
    "tight capacity, einsum": {"model": {"moe": {"capacity": TIGHT, "dispatch": "einsum"}}},
    "gated, untied, smoothed": {
        "model": {"feed_forward": "gated_gelu", "tie_embeddings": False, "moe": {"capacity": TIGHT, "d_ff": 24}},
        "loss": {"label_smoothing": 0.1}},
    "all sparse, by sequence": {
        "model": {"remat": "full", "moe": {"capacity": TIGHT | {"rounding": "ceil"}, "every": 1, "group": "sequence"}}},
    "deep, accumulated": {
        "model": {"num_encoder_layers": 4, "num_decoder_layers": 6,
                  "moe": {"capacity": TIGHT, "dispatch": "einsum", "offset": 0}},
        "batch": {"accumulation": 2}},
    "dense": {"model": {"moe": {"num_experts": 0}}, "batch": {"accumulation": 2}},
    "causal, unrolled": CAUSAL,
    "adafactor": {"model": {"moe": {"capacity": TIGHT}},
                  "optimizer": {"kind": "adafactor", "min_dim_size_to_factor": 8, "weight_decay": 0.1}},
    "adafactor, momentum": {"optimizer": {"kind": "adafactor", "min_dim_size_to_factor": 20, "beta1": 0.9}},
}


def merged(base, changes):
    """`changes` laid over `base`; an object with another `kind` replaces the old one."""
    if not isinstance(base, dict) or not isinstance(changes, dict) or changes.get("kind", 0) != base.get("kind", 0) != 0:
        return changes
    return base | {key: merged(base.get(key), value) for key, value in changes.items()}


def tree(flat):
    """`{"a/b": x}` as `{"a": {"b": x}}`."""
    nested = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def flatten(nested, prefix=""):
    for name, value in nested.items():
        yield from flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


class Command:
    """The command on one artifact."""

    def __init__(self, program, folder, config):
        self.program, self.folder = program, folder
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        self("compile", folder / "config.json", "--out", folder / "artifact")
        self.manifest = json.loads((folder / "artifact" / "manifest.json").read_text())

    def __call__(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr}")

    def run(self, program, state, inputs):
        files = {kind: self.folder / f"{program}.{kind}.safetensors" for kind in ("state", "inputs", "outputs")}
        arguments = []
        if state:
            save_file(state, files["state"])
            arguments = ["--checkpoint", files["state"]]
        save_file(inputs, files["inputs"])
        arguments += ["--inputs", files["inputs"], "--outputs", files["outputs"]]
        self("run", self.folder / "artifact", "--program", program, *arguments)
        return load_file(files["outputs"])

    def state_ports(self):
        [step] = [p for p in self.manifest["programs"] if p["name"] == "train_step"]
        return [port for port in step["inputs"] if port["role"] == "state"]


def random_state(command, dice):
    """Weights of unit scale, gains around one, routers that decide clearly; moments as after some steps."""
    state = {}
    for port in command.state_ports():
        name, shape = port["name"], port["shape"]
        normal = dice.standard_normal(shape)
        if name in ("step", "key"):
            value = np.zeros(shape)
        elif name.startswith("optimizer/m/"):
            value = np.zeros(shape)
        elif name.startswith("optimizer/"):
            value = 1e-4 * normal**2
        elif name.endswith("norm"):
            value = 1 + 0.3 * normal
        else:
            value = normal * (1 if "embedding" in name or "bias" in name else shape[-2] ** -0.5)
        state[name] = value.astype({"s32": "int32", "u32": "uint32", "f32": "float32"}[port["dtype"]])
    return state


def random_batch(command, dice):
    """Tokens with padding behind them, of every other row."""
    sizes = command.manifest["config"]["batch"]
    vocabulary = command.manifest["config"]["model"]["vocab_size"]

    def tokens(length):
        rows = dice.integers(1, vocabulary, (sizes["sequences"], length), dtype=np.int32)
        for row in rows[1::2]:
            row[dice.integers(1, length):] = 0
        return rows

    batch = {"inputs": tokens(sizes["input_length"]), "targets": tokens(sizes["target_length"])}
    if command.manifest["config"]["model"]["architecture"] == "decoder_only":
        del batch["inputs"]
    return batch


def params_of(state):
    weights = {k: v for k, v in state.items() if not k.startswith("optimizer/") and k not in ("step", "key")}
    return tree({name: jnp.asarray(value, jnp.float64) for name, value in weights.items()})


def check(program, folder):
    rows = []
    for number, (name, changes) in enumerate(MODELS.items()):
        row = Row("model", name, TOLERANCE)
        dice = np.random.default_rng(number)
        command = Command(program, folder / name.replace(" ", "_"), merged(BASE, changes))
        if number == 0:
            rows.append(check_init(command))
        state, batch = random_state(command, dice), random_batch(command, dice)
        check_forward(row, command, state, batch)
        check_step(row, command, state, batch)
        rows.append(row)
    return rows


def scalars_and_layers(row, found, ours, kinds):
    for name in kinds:
        if name in found and name in ours:
            row.add(name.split("/")[-1][:8], difference([ours[name].astype(np.float64)], [found[name]]), f"{row.name}: {name}")


LAYERS = ["layers/load_balancing_loss", "layers/router_z_loss", "layers/dropped", "layers/router_entropy", "layers/expert_load"]


def check_forward(row, command, state, batch):
    """Logits, states, losses and decisions of the program `forward`, where there are tokens."""
    config = command.manifest["config"]
    part = len(batch["targets"]) // config["batch"]["accumulation"]
    batch = {name: tokens[:part] for name, tokens in batch.items()}
    params = {k: v for k, v in state.items() if not k.startswith("optimizer/") and k not in ("step", "key")}
    ours = command.run("forward", params, batch)
    function = lambda params: total(config, params, batch.get("inputs"), batch["targets"], False)[1]
    found = jax.jit(function)(params_of(state))
    real = {"targets": batch["targets"] != 0, "inputs": batch.get("inputs", np.zeros(0)) != 0}
    for name, kind in [("logits", "targets"), ("decoder_states", "targets"), ("encoder_states", "inputs")]:
        if name in ours:
            pair = [np.asarray(x, np.float64)[real[kind]] for x in (ours[name], found[name])]
            row.add(name[:7], difference(pair[:1], pair[1:]), f"{row.name}: {name}")
    scalars_and_layers(row, found, ours, ["loss", "cross_entropy", *LAYERS])
    sides = [side for side in ("encoder", "decoder") if f"{side}/decisions" in ours]
    decisions = iter(found["decisions"])
    for side in sides:
        theirs = np.stack([np.asarray(next(decisions), np.int32) for _ in ours[f"{side}/decisions"]])
        differ = (theirs != ours[f"{side}/decisions"]).sum()
        row.add("choices", differ, f"{row.name}: {side} decisions")
    if sides and "tight" in row.name:
        assert 0 < float(np.min(found["layers/dropped"])), "a tight capacity must drop tokens"


def check_step(row, command, state, batch):
    """Metrics, gradients and update of the program `train_step`."""
    config = command.manifest["config"]
    settings, rate = config["optimizer"], config["schedule"]["rate"]
    state = state | {"step": np.asarray(7, np.int32)}
    ours = command.run("train_step", state, batch)
    function = lambda params: total(config, params, batch.get("inputs"), batch["targets"], True)
    (_, found), gradients = jax.jit(jax.value_and_grad(function, has_aux=True))(params_of(state))
    scalars_and_layers(row, found, ours, ["loss", "cross_entropy", "z_loss", "accuracy", *LAYERS])
    gradients = {name: np.asarray(g) for name, g in flatten(gradients)}
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    row.add("norm", abs(ours["grad_norm"] / norm - 1), f"{row.name}: gradient norm")
    rule = {"adamw": optimizers.adamw, "adafactor": optimizers.adafactor}[settings["kind"]]
    for name, g in gradients.items():
        slots = {s.split("/")[1]: v.astype(np.float64) for s, v in state.items()
                 if s.startswith("optimizer/") and s.split("/", 2)[2] == name}
        used = g
        if settings["kind"] == "adamw":
            # The gradient itself, relative to its own size.
            used = ours[f"optimizer/m/{name}"].astype(np.float64) / (1 - settings["beta1"])
            error = np.abs(used - g).max() / np.abs(g).max()
            row.add("grad", error, f"{row.name}: gradient of {name}", GRADIENT_TOLERANCE)
        new, slots = rule(settings, rate, name, state[name].astype(np.float64), used, slots, 8.0)
        row.add("update", difference([ours[name].astype(np.float64)], [new]), f"{row.name}: update of {name}")
        for slot, value in slots.items():
            error = np.abs(ours[f"optimizer/{slot}/{name}"] - value).max() / np.abs(value).max()
            row.add("slots", error, f"{row.name}: optimizer/{slot}/{name}", GRADIENT_TOLERANCE)


def check_init(command):
    """The first state: shapes, ones for gains, zeros for moments, deviations of the truncated normals."""
    row = Row("model", "first state", 0.05)
    state = command.run("init", {}, {"seed": np.array([0, 1], np.uint32)})
    layout = {port["name"]: port["shape"] for port in command.state_ports()}
    row.add("layout", {n: list(v.shape) for n, v in state.items()} != layout, "names and shapes")
    # A normal cut at two deviations has 0.8796 of the deviation.
    cut = 0.879626
    for name, value in state.items():
        if name in ("step", "key"):
            continue
        if name.startswith("optimizer/") or name.endswith("norm"):
            row.add("constant", np.abs(value - name.endswith("norm") * (not name.startswith("optimizer/"))).max(), name)
            continue
        fan_in, scale = value.shape[-2], 0.1 / (command.manifest["config"]["model"]["d_kv"] if name.endswith("/q") else 1)
        sigma = np.sqrt(scale / fan_in)
        if name.endswith("embedding"):
            sigma = 1.0
        elif name.endswith("router"):
            sigma = 0.02
        elif name.endswith("relative_bias"):
            sigma = np.sqrt(2 / sum(value.shape))
        row.add("cut", max(0, np.abs(value).max() / (2 * sigma) - 1), name)
        if value.size > 4000:
            row.add("spread", abs(value.std() / (cut * sigma) - 1), name)
    return row
