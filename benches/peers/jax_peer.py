"""The Switch Transformer of a configuration as one writes it in JAX for speed: one jitted step with loss, gradients and
Adafactor, its state donated, blocks unrolled.

Dispatch in three forms: `einsum` multiplies with one-hot masks (the papers), `gather` looks rows up by index both ways, `scatter`
writes tokens to their slots and looks them up again.
"""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from turns import arguments, take_turns

HIDDEN = -1e9
# The axes of a mesh, over all of which the batch is split.
ALL = ("data", "expert")


def norm(x, gain):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * gain


def attention(model, p, x, states, bias):
    heads = lambda x, w: (x @ w).reshape(*x.shape[:2], model["num_heads"], model["d_kv"])
    q, k, v = heads(x, p["q"]), heads(states, p["k"]), heads(states, p["v"])
    probs = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
    return jnp.einsum("bhqk,bkhd->bqhd", probs, v).reshape(*x.shape[:2], -1) @ p["o"]


def bucket(distance, buckets, furthest, both):
    """T5's bucket of each distance, key minus query."""
    side = buckets // 2 if both else buckets
    start = side * (distance > 0) if both else 0
    size = np.abs(distance) if both else np.maximum(-distance, 0)
    exact = side // 2
    ratio = np.log(np.maximum(size, 1) / exact) / np.log(furthest / exact)
    far = exact + np.floor(ratio * (side - exact) + 1e-9).astype(int)
    return start + np.where(size < exact, size, np.minimum(far, side - 1))


def dispatch(model, form, tokens, router):
    """Of one group: the experts' inputs [experts, capacity, d_model], what `combine` needs, the load-balancing loss."""
    sizes, count = model["moe"], len(tokens)
    experts = sizes["num_experts"]
    capacity = max(math.floor(sizes["capacity"]["train_factor"] * count / experts), sizes["capacity"]["minimum"])
    probs = jax.nn.softmax(tokens @ router)
    gate, expert = probs.max(-1), probs.argmax(-1)
    own = jax.nn.one_hot(expert, experts, dtype=jnp.int32)
    place = (jnp.cumsum(own, 0) * own).sum(-1) - 1
    balance = experts * jnp.sum(own.mean(0) * probs.mean(0))
    if form == "einsum":
        slots = jax.nn.one_hot(place, capacity, dtype=tokens.dtype)  # zero past the capacity
        mask = own.astype(tokens.dtype)[:, :, None] * slots[:, None]  # [tokens, experts, capacity]
        return jnp.einsum("sec,sd->ecd", mask, tokens), (gate, mask), balance
    slot = jnp.where(place < capacity, expert * capacity + place, experts * capacity)
    if form == "gather":
        token = jnp.full(experts * capacity, count).at[slot].set(jnp.arange(count), mode="drop", unique_indices=True)
        inputs = tokens.at[token].get(mode="fill", fill_value=0)
    else:
        inputs = jnp.zeros((experts * capacity, tokens.shape[-1]), tokens.dtype)
        inputs = inputs.at[slot].set(tokens, mode="drop", unique_indices=True)
    return inputs.reshape(experts, capacity, -1), (gate, slot), balance


def combine(form, outputs, route):
    """Of one group: what each token gets back."""
    gate, place = route
    if form == "einsum":
        return jnp.einsum("sec,ecd->sd", place * gate[:, None, None], outputs)
    return gate[:, None] * outputs.reshape(-1, outputs.shape[-1]).at[place].get(mode="fill", fill_value=0)


def moe(model, form, p, x, mesh=None):
    """The layer's output and its load-balancing loss. On a mesh the tokens of each device are a group, and its axis `expert` holds the
    experts: the constraints make the partitioner exchange tokens for experts and back."""
    send = lambda tokens: dispatch(model, form, tokens, p["router"])
    collect = lambda outputs, route: combine(form, outputs, route)
    tokens, put = x.reshape(-1, x.shape[-1]), lambda x, *axes: x
    if mesh is not None:
        put = lambda x, *axes: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes)))
        tokens = put(x.reshape(mesh.size, -1, x.shape[-1]), ALL)
        send, collect = jax.vmap(send), jax.vmap(collect)
    inputs, route, balance = send(tokens)
    inputs = put(put(inputs, ALL), "data", "expert")
    hidden = jax.nn.relu(jnp.einsum("...ecd,edf->...ecf", inputs, p["experts"]["wi"]))
    outputs = put(jnp.einsum("...ecf,efd->...ecd", hidden, p["experts"]["wo"]), "data", "expert")
    return collect(put(outputs, ALL), route).reshape(x.shape), jnp.mean(balance)


def stack(model, form, side, params, x, memory=None, mesh=None):
    length, positions = x.shape[1], model["positions"]
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    index = bucket(distance, positions["num_buckets"], positions["max_distance"], side == "encoder")
    bias = jnp.moveaxis(params["relative_bias"][index], -1, 0)
    if side == "decoder":
        bias = bias + jnp.where(distance <= 0, 0.0, HIDDEN)
    balance = 0.0
    for p in params["blocks"]:
        y = norm(x, p["attention"]["norm"])
        x = x + attention(model, p["attention"], y, y, bias)
        if memory is not None:
            y = norm(x, p["cross_attention"]["norm"])
            x = x + attention(model, p["cross_attention"], y, memory, 0.0)
        if "moe" in p:
            y, loss = moe(model, form, p["moe"], norm(x, p["moe"]["norm"]), mesh)
            x, balance = x + y, balance + loss
        else:
            y = norm(x, p["mlp"]["norm"])
            x = x + jax.nn.relu(y @ p["mlp"]["wi"]) @ p["mlp"]["wo"]
    return norm(x, params["final_norm"]), balance


def loss(config, form, mesh, params, inputs, targets):
    """Of a batch without padding."""
    model = config["model"]
    embedding = params["shared"]["embedding"]
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
    memory, encoder = stack(model, form, "encoder", params["encoder"], embedding[inputs], mesh=mesh)
    x, decoder = stack(model, form, "decoder", params["decoder"], embedding[shifted], memory, mesh)
    logits = (x * model["d_model"] ** -0.5) @ embedding.T
    total = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    objective = jnp.mean(total - target + config["loss"]["z_loss"] * total**2)
    return objective + model["moe"]["load_balancing_coef"] * (encoder + decoder)


def factored(w):
    return w.ndim >= 2 and min(w.shape[-2:]) >= 128


def first_slots(w):
    if factored(w):
        return jnp.zeros(w.shape[:-1]), jnp.zeros(w.shape[:-2] + w.shape[-1:])
    return (jnp.zeros(w.shape),)


def adafactor(w, g, slots, count):
    """Shazeer and Stern (2018); the matrices of experts are taken one by one."""
    own = tuple(range(w.ndim))[-2:]
    rms = lambda x: jnp.sqrt(jnp.mean(x * x, own, keepdims=True))
    new = count**-0.8
    blend = lambda old, squares: (1 - new) * old + new * (squares + 1e-30)
    if factored(w):
        row, col = blend(slots[0], jnp.mean(g * g, -1)), blend(slots[1], jnp.mean(g * g, -2))
        slots = row, col
        relative = row / jnp.mean(row, -1, keepdims=True)
        u = g * jax.lax.rsqrt(relative)[..., None] * jax.lax.rsqrt(col)[..., None, :]
    else:
        slots = (blend(slots[0], g * g),)
        u = g * jax.lax.rsqrt(slots[0])
    rate = jnp.minimum(1 / jnp.sqrt(jnp.maximum(count - 1, 10000.0)), 1.0)
    return w - rate * jnp.maximum(rms(w), 1e-3) / jnp.maximum(1.0, rms(u)) * u, slots


def step(config, form, state, batch, mesh=None):
    params, slots, count = state
    value, grads = jax.value_and_grad(lambda p: loss(config, form, mesh, p, *batch))(params)
    leaves, tree = jax.tree.flatten(params)
    updated = [adafactor(w, g, s, count) for w, g, s in zip(leaves, tree.flatten_up_to(grads), slots)]
    return (tree.unflatten([w for w, _ in updated]), [s for _, s in updated], count + 1), value


def unstack(model, flat):
    """Parameters as Switchyard names them -> a tree with one entry per block."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = jnp.asarray(value)
    period = model["moe"]["every"]
    for side in ("encoder", "decoder"):
        runs = [tree[side].pop(f"block_{i}") for i in range(period)]
        layers = range(model[f"num_{side}_layers"])
        tree[side]["blocks"] = [jax.tree.map(lambda w: w[i // period], runs[i % period]) for i in layers]
    return tree


def main():
    form, config, flat, batch = arguments()
    params = unstack(config["model"], flat)
    state = params, [first_slots(w) for w in jax.tree.leaves(params)], jnp.float32(1)
    run = jax.jit(lambda state, batch: step(config, form, state, batch), donate_argnums=0)
    batch = jnp.asarray(batch["inputs"]), jnp.asarray(batch["targets"])
    start = time.perf_counter()
    lowered = run.lower(state, batch)
    middle = time.perf_counter()
    compiled = lowered.compile()
    times = {"emission": middle - start, "compile": time.perf_counter() - middle}

    def turn():
        nonlocal state
        state, value = compiled(state, batch)
        return float(value)

    take_turns(times, turn)


if __name__ == "__main__":
    main()
