"""Every derivative rule against `jax.vjp`, in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from lax import run
from report import Row, difference


def check(folder):
    """One row per rule: the largest relative error of values and of products with cotangents over its cases."""
    tensors = load_file(folder / "cases.safetensors")
    rows = {}
    for case in json.loads((folder / "cases.json").read_text()):
        row = rows.setdefault(case["rule"], Row("rule", case["rule"]))
        value, product = compare(case, tensors)
        row.add("value", value, case["name"], case["tolerance"])
        row.add("vjp", product, case["name"], case["tolerance"])
    return list(rows.values())


def compare(case, tensors):
    """The relative errors of one case: of its outputs, and of its gradients."""
    read = lambda kind: [
        np.stack([tensors[f"{case['name']}/{kind}/{r}/{i}"] for r in range(case["replicas"])])
        for i in range(case["counts"][kind])]
    inputs, outputs, cotangents, gradients = map(read, ["input", "output", "cotangent", "gradient"])
    floats = [i for i, x in enumerate(inputs) if np.issubdtype(x.dtype, np.floating)]

    def function(*given):
        whole = [jnp.asarray(x) for x in inputs]
        for i, x in zip(floats, given, strict=True):
            whole[i] = x
        # One replica is a batch of one.
        found = jax.vmap(lambda *x: run(case["graph"], x), axis_name="replicas")(*whole)
        return [y for y in found if jnp.issubdtype(y.dtype, jnp.floating)], found

    _, pull, found = jax.vjp(function, *(jnp.asarray(inputs[i]) for i in floats), has_aux=True)
    expected = pull([jnp.asarray(g) for g in cotangents])
    return difference(outputs, found), difference(gradients, expected)
