"""Graphs of cases.json as JAX functions: each operation by what `jax.lax` has for it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

DTYPES = {
    "pred": "bool", "s8": "int8", "s32": "int32", "s64": "int64", "u8": "uint8", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
}
UNARY = {
    # With slope 0 at 0, as PyTorch and TensorFlow have it; that of `lax.abs` is 1.
    "negate": lax.neg, "abs": lambda x: x * lax.stop_gradient(lax.sign(x)), "sign": lax.sign, "exponential": lax.exp, "exponential-minus-one": lax.expm1,
    "log": lax.log, "log-plus-one": lax.log1p, "tanh": lax.tanh, "logistic": lax.logistic, "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt, "sine": lax.sin, "cosine": lax.cos, "erf": lax.erf, "floor": lax.floor, "ceil": lax.ceil,
    "round-nearest-even": lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
    "is-finite": lax.is_finite, "not": lax.bitwise_not,
}
BINARY = {
    "add": lax.add, "subtract": lax.sub, "multiply": lax.mul, "divide": lax.div, "remainder": lax.rem,
    "maximum": lax.max, "minimum": lax.min, "power": lax.pow, "and": lax.bitwise_and, "or": lax.bitwise_or,
    "xor": lax.bitwise_xor, "shift-left": lax.shift_left, "shift-right-logical": lax.shift_right_logical,
}
COMPARE = {"EQ": lax.eq, "NE": lax.ne, "LT": lax.lt, "LE": lax.le, "GT": lax.gt, "GE": lax.ge}
REDUCE = {"add": jnp.sum, "multiply": jnp.prod, "maximum": jnp.max, "minimum": jnp.min, "and": jnp.all, "or": jnp.any}


def run(graph, inputs):
    """The outputs of a graph."""
    env = dict(zip(graph["inputs"], inputs, strict=True))
    for node in graph["nodes"]:
        if node["op"] == "parameter":
            continue
        results = apply(node["op"], node["attrs"], [env[v] for v in node["operands"]])
        env.update(zip(node["results"], results, strict=True))
    return [env[v] for v in graph["outputs"]]


def apply(op, a, x):
    """The results of one operation: `a` are its attributes, `x` its operands."""
    if op in MANY:
        return MANY[op](a, x)
    if op in UNARY:
        return [UNARY[op](*x)]
    if op in BINARY:
        return [BINARY[op](*x)]
    return [ONE[op](a, *x)]


def constant(a):
    dtype = np.dtype(DTYPES[a["dtype"]])
    return jnp.asarray(np.frombuffer(bytes.fromhex(a["hex"]), dtype).reshape(a["shape"]))


def reduce(a, x):
    return REDUCE[a["reducer"]](x, axis=tuple(a["dims"]))


def dot_general(a, lhs, rhs):
    dims = ((a["lhs_contracting"], a["rhs_contracting"]), (a["lhs_batch"], a["rhs_batch"]))
    wide = jnp.dtype(DTYPES[a["result"]])
    return lax.dot_general(lhs.astype(wide), rhs.astype(wide), dims, precision=lax.Precision.HIGHEST)


def cumsum(a, x):
    total = lax.cumsum(x, a["dim"], reverse=a["reverse"])
    return total - x if a["exclusive"] else total


def index_vectors_last(indices, a):
    """JAX wants index vectors in the last dimension; dimension numbers behind the old place move forward."""
    at = a["index_vector_dim"]
    indices = indices[..., None] if at == indices.ndim else jnp.moveaxis(indices, at, -1)
    return indices, tuple(d - (d > at) for d in a["start_indices_batching_dims" if "offset_dims" in a else "scatter_indices_batching_dims"])


def gather(a, x, indices):
    indices, batching = index_vectors_last(indices, a)
    numbers = lax.GatherDimensionNumbers(
        tuple(a["offset_dims"]), tuple(a["collapsed_slice_dims"]), tuple(a["start_index_map"]),
        tuple(a["operand_batching_dims"]), batching)
    return lax.gather(x, indices, numbers, tuple(a["slice_sizes"]), mode=lax.GatherScatterMode.CLIP)


def scatter(a, x, indices, updates):
    indices, batching = index_vectors_last(indices, a)
    numbers = lax.ScatterDimensionNumbers(
        tuple(a["update_window_dims"]), tuple(a["inserted_window_dims"]), tuple(a["scatter_dims_to_operand_dims"]),
        tuple(a["operand_batching_dims"]), batching)
    scatter = {"assign": lax.scatter, "add": lax.scatter_add}[a["combiner"]]
    return scatter(x, indices, updates, numbers, unique_indices=a["unique"], mode=lax.GatherScatterMode.FILL_OR_DROP)


def clamped(starts, shape, sizes):
    """XLA clamps starts; JAX would count negative ones from the end."""
    return [jnp.clip(s, 0, n - k) for s, n, k in zip(starts, shape, sizes, strict=True)]


def dynamic_slice(a, x, *starts):
    return lax.dynamic_slice(x, clamped(starts, x.shape, a["sizes"]), a["sizes"])


def dynamic_update_slice(a, x, update, *starts):
    return lax.dynamic_update_slice(x, update, clamped(starts, x.shape, update.shape))


def sort(a, x):
    """Sorts by the first operand; the comparator must be one `LT` (ascending) or `GT` (descending)."""
    [compare] = [n for n in a["comparator"]["nodes"] if n["op"] != "parameter"]
    assert compare["operands"] == a["comparator"]["inputs"][:2] and a["stable"]
    key = {"LT": x[0], "GT": -x[0]}[compare["attrs"]["direction"]]
    key = lax.stop_gradient(key)
    return list(lax.sort([key, *x], dimension=a["dim"], is_stable=True, num_keys=1)[1:])


def scan(a, x):
    consts, carry, xs = np.split(np.arange(len(x)), [a["num_consts"], a["num_consts"] + a["num_carry"]])
    pick = lambda places: [x[i] for i in places]

    def body(carry, xs):
        outputs = run(a["body"], [*pick(consts), *carry, *xs])
        return outputs[: a["num_carry"]], outputs[a["num_carry"]:]

    carry, ys = lax.scan(body, pick(carry), pick(xs), length=a["length"], reverse=a["reverse"])
    return [*carry, *ys]


def conditional(a, x):
    count = len(a["branches"])
    index = jnp.where((x[0] < 0) | (x[0] >= count), count - 1, x[0])
    branches = [lambda *x, graph=graph: run(graph, x) for graph in a["branches"]]
    return lax.switch(index, branches, *x[1:])


def while_loop(a, x):
    return lax.while_loop(lambda s: run(a["cond"], s)[0], lambda s: run(a["body"], s), x)


# Collectives: every replica sees what all have, and takes its part. `replicas` is the axis of `jax.vmap`.

def peers(a, x):
    """The operands of the replica's group, in its order, and the replica's place there."""
    groups = np.asarray(a["groups"])
    [group, place] = [np.zeros(groups.size, int) for _ in range(2)]
    for (g, p), replica in np.ndenumerate(groups):
        group[replica], place[replica] = g, p
    me = lax.axis_index("replicas")
    return lax.all_gather(x, "replicas")[jnp.asarray(groups)[group][me]], jnp.asarray(place)[me]


def chunk(x, dim, parts, place):
    size = x.shape[dim] // parts
    return lax.dynamic_slice_in_dim(x, place * size, size, dim)


def all_reduce(a, x):
    return peers(a, x)[0].sum(0)


def all_gather(a, x):
    return jnp.concatenate(list(peers(a, x)[0]), a["dim"])


def reduce_scatter(a, x):
    parts, place = peers(a, x)
    return chunk(parts.sum(0), a["dim"], len(parts), place)


def all_to_all(a, x):
    parts, place = peers(a, x)
    return jnp.concatenate([chunk(p, a["split_dim"], len(parts), place) for p in parts], a["concat_dim"])


def collective_permute(a, x):
    everyone = lax.all_gather(x, "replicas")
    source = {target: source for source, target in a["pairs"]}
    rows = [everyone[source[i]] if i in source else jnp.zeros_like(x) for i in range(len(everyone))]
    return jnp.stack(rows)[lax.axis_index("replicas")]


MANY = {
    "sort": sort, "scan": scan, "conditional": conditional, "while": while_loop,
    "call": lambda a, x: run(a["body"], x),
    "optimization_barrier": lambda a, x: list(lax.optimization_barrier(tuple(x))),
}
ONE = {
    "constant": constant, "reduce": reduce, "dot_general": dot_general, "cumsum": cumsum, "gather": gather,
    "scatter": scatter, "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice,
    "all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter, "all_to_all": all_to_all,
    "collective_permute": collective_permute,
    "iota": lambda a: lax.broadcasted_iota(DTYPES[a["dtype"]], a["shape"], a["dim"]),
    "compare": lambda a, x, y: COMPARE[a["direction"]](x, y),
    "select": lambda a, p, x, y: lax.select(p, x, y),
    "clamp": lambda a, low, x, high: lax.clamp(low, x, high),
    "convert": lambda a, x: lax.convert_element_type(x, DTYPES[a["dtype"]]),
    "bitcast_convert": lambda a, x: lax.bitcast_convert_type(x, DTYPES[a["dtype"]]),
    "stop_gradient": lambda a, x: lax.stop_gradient(x),
    "broadcast_in_dim": lambda a, x: lax.broadcast_in_dim(x, a["shape"], a["dims"]),
    "reshape": lambda a, x: lax.reshape(x, a["shape"]),
    "transpose": lambda a, x: lax.transpose(x, a["permutation"]),
    "reverse": lambda a, x: lax.rev(x, a["dims"]),
    "slice": lambda a, x: lax.slice(x, a["starts"], a["limits"], a["strides"]),
    "pad": lambda a, x, value: lax.pad(x, value, list(zip(a["low"], a["high"], a["interior"]))),
    "concatenate": lambda a, *x: lax.concatenate(x, a["dim"]),
}
