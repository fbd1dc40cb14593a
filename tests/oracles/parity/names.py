"""Which slice of which tensor of ours holds the numbers of a tensor there. Written apart from the command's own tables."""

import re


def ours(name, config, tied):
    """Our name, the index on its leading axes, and whether the matrix is transposed."""
    if name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        return "shared/embedding", (), False
    if name == "lm_head.weight":
        return ("shared/embedding" if tied else "head"), (), False
    side, rest = name.split(".", 1)
    if rest == "final_layer_norm.weight":
        return f"{side}/final_norm", (), False
    layer, place, what = re.fullmatch(r"block\.(\d+)\.layer\.(\d+)\.(.+)\.weight", rest).groups()
    layer, place = int(layer), int(place)
    if what.endswith("relative_attention_bias"):
        return f"{side}/relative_bias", (), False
    period = config["moe"]["every"] if config["moe"]["num_experts"] else 1
    sparse = config["moe"]["num_experts"] > 0 and layer % period == config["moe"]["offset"]
    last = 1 if side == "encoder" else 2
    group = "attention" if place == 0 else "cross_attention" if place < last else "moe" if sparse else "mlp"
    path, index = f"{side}/block_{layer % period}/{group}", (layer // period,)
    if what == "layer_norm":
        return f"{path}/norm", index, False
    if what == "mlp.router.classifier":
        return f"{path}/router", index, True
    expert = re.fullmatch(r"mlp\.experts\.expert_(\d+)\.(\w+)", what)
    if expert:
        return f"{path}/experts/{expert[2]}", (*index, int(expert[1])), True
    return f"{path}/{what.split('.')[-1]}", index, True
