"""The Switch Transformer (and T5) from the papers' equations, in plain JAX; shares no code and no layout tricks with ours.

Routing is first come, first served: a loop over tokens counts what each expert took (`decide`). Experts then run on every
token, and each token keeps the output of its own: there are no slots, masks or tables here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

HIDDEN = -1e9


def decide(probs, real, capacity):
    """`probs [groups, tokens, experts]` -> the expert of each token, and whether it had room: `[groups, tokens]`."""
    probs, real = np.asarray(probs), np.asarray(real)
    expert = probs.argmax(-1).astype(np.int32)
    kept = np.zeros(expert.shape, bool)
    for group, row in enumerate(expert):
        taken = [0] * probs.shape[-1]
        for token, e in enumerate(row):
            if real[group, token]:
                kept[group, token] = taken[e] < capacity
                taken[e] += 1
    return expert, kept


def capacity(moe, tokens, train):
    rule = moe["capacity"]
    share = rule["train_factor" if train else "eval_factor"] * tokens / moe["num_experts"]
    whole = {"floor": math.floor, "ceil": math.ceil, "nearest_even": round}[rule["rounding"]](share)
    whole = max(whole, rule["minimum"], 1)
    return min(-(-whole // rule["multiple"]) * rule["multiple"], tokens)


def groups(moe, sequences, length):
    tokens = sequences * length
    if moe["group"] == "batch":
        return 1
    if moe["group"] == "sequence":
        return sequences
    return next(g for g in range(1, tokens + 1) if tokens % g == 0 and tokens // g <= moe["group"]["tokens"])


class Model:
    def __init__(self, config, params, train):
        self.config, self.params, self.train = config["model"], params, train
        self.stats = []

    def norm(self, x, gain):
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + self.config["norm_epsilon"]) * gain

    def attention(self, p, queries, keys, bias):
        heads = lambda x, w: (x @ w).reshape(*x.shape[:2], self.config["num_heads"], self.config["d_kv"])
        q, k, v = heads(queries, p["q"]), heads(keys, p["k"]), heads(keys, p["v"])
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)
        return mixed.reshape(*queries.shape[:2], -1) @ p["o"]

    def hidden(self, p, x):
        if self.config["feed_forward"] == "relu":
            return jax.nn.relu(x @ p["wi"])
        return jax.nn.gelu(x @ p["wi_0"], approximate=True) * (x @ p["wi_1"])

    def feed_forward(self, p, x):
        return self.hidden(p, x) @ p["wo"]

    def moe(self, p, x, real):
        moe = self.config["moe"]
        count = groups(moe, *x.shape[:2])
        tokens, real = x.reshape(count, -1, x.shape[-1]), real.reshape(count, -1)
        logits = tokens @ p["router"]
        probs = jax.nn.softmax(logits, -1)
        room = capacity(moe, tokens.shape[1], self.train)
        types = [jax.ShapeDtypeStruct(real.shape, dtype) for dtype in (jnp.int32, bool)]
        choose = lambda probs: decide(probs, real, room)
        expert, kept = jax.pure_callback(choose, types, jax.lax.stop_gradient(probs))
        own = jax.nn.one_hot(expert, moe["num_experts"], dtype=x.dtype)  # [groups, tokens, experts]
        everywhere = jnp.stack([
            self.feed_forward({name: w[e] for name, w in p["experts"].items()}, tokens)
            for e in range(moe["num_experts"])], 2)  # [groups, tokens, experts, d_model]
        gate = (own * probs).sum(-1) * kept
        y = gate[..., None] * (own[..., None] * everywhere).sum(2)

        per_group = jnp.maximum(real.sum(1), 1)[:, None]
        fraction = (own * real[..., None]).sum(1) / per_group
        mean_prob = (probs * real[..., None]).sum(1) / per_group
        total = jnp.maximum(real.sum(), 1)
        logsumexp = jax.nn.logsumexp(logits, -1)
        self.stats.append({
            "load_balancing_loss": moe["num_experts"] * (fraction * mean_prob).sum(1).mean(),
            "router_z_loss": (logsumexp**2 * real).sum() / total,
            "dropped": 1 - kept.sum() / total,
            "router_entropy": -(probs * jnp.log(probs) * real[..., None]).sum() / total,
            "expert_load": (own * real[..., None]).sum((0, 1)) / total,
            "decisions": jnp.where(kept, expert, -1).reshape(*x.shape[:2], 1),
        })
        return y.reshape(x.shape)

    def position_bias(self, table, length, both):
        """T5's buckets, by its formula."""
        positions = self.config["positions"]
        distance = np.arange(length)[None, :] - np.arange(length)[:, None]  # key - query
        buckets = positions["num_buckets"] // (2 if both else 1)
        offset = buckets * (distance > 0) if both else 0
        size = np.abs(distance) if both else np.maximum(-distance, 0)
        exact = buckets // 2
        ratio = np.log(np.maximum(size, 1) / exact) / np.log(positions["max_distance"] / exact)
        far = exact + np.floor(ratio * (buckets - exact) + 1e-9).astype(int)
        bucket = offset + np.where(size < exact, size, np.minimum(far, buckets - 1))
        return jnp.moveaxis(table[bucket], -1, 0)[None]  # [1, heads, queries, keys]

    def stack(self, side, x, real, memory=None):
        config, params = self.config, self.params[side]
        bias = self.position_bias(params["relative_bias"], x.shape[1], side == "encoder")
        bias = bias + jnp.where(real, 0.0, HIDDEN)[:, None, None, :]
        if side == "decoder":
            bias = bias + jnp.where(np.tril(np.ones((x.shape[1],) * 2)), 0.0, HIDDEN)
        layers = config[f"num_{side}_layers"]
        sparse = config["moe"]["num_experts"] > 0
        period = config["moe"]["every"] if sparse else 1
        for layer in range(layers):
            # Block `i` of a run is stacked over the runs.
            block = jax.tree.map(lambda w: w[layer // period], params[f"block_{layer % period}"])
            normal = lambda name: self.norm(x, block[name]["norm"])
            y = normal("attention")
            x = x + self.attention(block["attention"], y, y, bias)
            if memory is not None:
                states, seen = memory
                cross = jnp.where(seen, 0.0, HIDDEN)[:, None, None, :]
                x = x + self.attention(block["cross_attention"], normal("cross_attention"), states, cross)
            if sparse and layer % period == config["moe"]["offset"]:
                x = x + self.moe(block["moe"], normal("moe"), real)
            else:
                x = x + self.feed_forward(block["mlp"], normal("mlp"))
        return self.norm(x, params["final_norm"])

    def __call__(self, inputs, targets):
        """Logits, states and losses of a batch; sums over tokens."""
        embedding = self.params["shared"]["embedding"]
        shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
        memory = None
        if inputs is not None:
            memory = self.stack("encoder", embedding[inputs], inputs != 0), inputs != 0
        states = self.stack("decoder", embedding[shifted], targets != 0, memory)
        tied = self.config["tie_embeddings"]
        head = embedding * self.config["d_model"] ** -0.5 if tied else self.params["head"]
        return states @ head.T, states, memory and memory[0]


def losses(config, logits, targets):
    """Objective, cross entropy, squared logsumexp and hits, summed over the tokens that are not padding."""
    real = targets != 0
    logsumexp = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    smoothing = config["loss"]["label_smoothing"]
    expected = (1 - smoothing) * target + smoothing * logits.mean(-1)
    objective = logsumexp - expected + config["loss"]["z_loss"] * logsumexp**2
    hits = logits.argmax(-1) == targets
    return [(value * real).sum() for value in (objective, logsumexp - target, logsumexp**2, hits)]


def total(config, params, inputs, targets, train):
    """The loss of a batch and everything on the way to it. In training the batch comes in `accumulation` parts."""
    parts = config["batch"]["accumulation"] if train else 1
    split = lambda tokens: [None] * parts if tokens is None else np.split(tokens, parts)
    tokens = max((targets != 0).sum(), 1)
    sums, parts_stats, loss = np.zeros(4), [], 0.0
    moe = config["model"]["moe"]
    for part_inputs, part_targets in zip(split(inputs), split(targets)):
        model = Model(config, params, train)
        logits, states, memory = model(part_inputs, part_targets)
        part = losses(config, logits, part_targets)
        sums = sums + jnp.stack(part)
        parts_stats.append(model.stats)
        loss = loss + part[0] / tokens
        for stats in model.stats:
            auxiliary = moe["load_balancing_coef"] * stats["load_balancing_loss"]
            loss = loss + (auxiliary + moe["z_loss_coef"] * stats["router_z_loss"]) / parts
    found = {"loss": loss, "cross_entropy": sums[1] / tokens, "z_loss": sums[2] / tokens, "accuracy": sums[3] / tokens}
    for name in [n for n in parts_stats[0][0] if n != "decisions"] if parts_stats[0] else []:
        # [parts, layers, ..]
        found["layers/" + name] = jnp.stack([jnp.stack([s[name] for s in part]) for part in parts_stats]).mean(0)
    if not train:
        found |= {"logits": logits, "decoder_states": states, "encoder_states": memory}
        found["decisions"] = [stats["decisions"] for stats in parts_stats[0]]
    return loss, found
