"""One step of AdamW and of Adafactor, from the papers' algorithms."""

import numpy as np


def stacked_axes(name):
    """Leading axes that stack separate matrices: repeats of a block, experts."""
    return ("/block_" in name) + ("/experts/" in name)


def is_norm(name):
    return name.endswith("norm")


def adamw(settings, rate, name, p, g, slots, count):
    """Loshchilov and Hutter (2019), algorithm 2."""
    m = settings["beta1"] * slots["m"] + (1 - settings["beta1"]) * g
    v = settings["beta2"] * slots["v"] + (1 - settings["beta2"]) * g * g
    m_hat, v_hat = m / (1 - settings["beta1"] ** count), v / (1 - settings["beta2"] ** count)
    decay = 0 if is_norm(name) else settings["weight_decay"]
    return p - rate * (m_hat / (np.sqrt(v_hat) + settings["epsilon"]) + decay * p), {"m": m, "v": v}


def adafactor(settings, rate, name, p, g, slots, count):
    """Shazeer and Stern (2018), algorithms 4 to 6, with everything taken per stacked matrix."""
    rho = 1 - count ** -settings["decay_exponent"]
    squares = g * g + settings["epsilon1"]
    own = tuple(range(stacked_axes(name), p.ndim))
    rms = lambda x: np.sqrt(np.mean(x * x, axis=own, keepdims=True))
    if "v" in slots:
        new = {"v": rho * slots["v"] + (1 - rho) * squares}
        u = g / np.sqrt(new["v"])
    else:
        [*_, second, largest] = sorted(own, key=lambda axis: p.shape[axis])
        row = rho * slots["v_row"] + (1 - rho) * squares.mean(largest)
        col = rho * slots["v_col"] + (1 - rho) * squares.mean(second)
        new = {"v_row": row, "v_col": col}
        r, c = np.expand_dims(row, largest), np.expand_dims(col, second)
        u = g / np.sqrt(r * c / r.mean(second, keepdims=True))
    u = u / np.maximum(1, rms(u) / settings["clip_threshold"])
    step = rate * np.maximum(rms(p), settings["epsilon2"]) * u
    if settings["beta1"] is not None:
        step = new["m"] = settings["beta1"] * slots["m"] + (1 - settings["beta1"]) * step
    decay = 0 if is_norm(name) else settings["weight_decay"]
    return p * (1 - rate * decay) - step, new
