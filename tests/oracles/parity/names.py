"""Which slice of which tensor of ours holds the numbers of a tensor there. Written apart from the command's own tables."""

import re


def ours(name, config, tied):
    """Our name, the index on its leading axes, and whether the matrix is transposed."""
    if config["architecture"] == "decoder_only":
        return decoder(name, config)
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
    every, offset = spacing(config["moe"], side)
    period, sparse = every or 1, every > 0 and layer % every == offset
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


def spacing(moe, side):
    """One block in how many is sparse, 0 for none, and which."""
    if moe["num_experts"] == 0:
        return 0, 0
    if side == "decoder" and moe["decoder_every"] is not None:
        return moe["decoder_every"], moe["decoder_offset"]
    return moe["every"], moe["offset"]


ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "q_a_proj": "q_down", "q_a_layernorm": "q_norm",
             "q_b_proj": "q_up", "kv_a_proj_with_mqa": "kv_down", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up"}
NETWORK = {"w1": "wi_0", "w3": "wi_1", "w2": "wo", "gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}


def decoder(name, config):
    """The same of a decoder alone, whose blocks are dense at first and then sparse."""
    outside = {"model.embed_tokens.weight": "shared/embedding", "lm_head.weight": "head", "model.norm.weight": "decoder/final_norm"}
    if name in outside:
        return outside[name], (), False
    layer, what = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()
    dense = config["num_dense_layers"]
    sparse = int(layer) >= dense
    path, index = f"decoder/{'block_0' if sparse else 'first_0'}", (int(layer) - dense * sparse,)
    network = f"{path}/{'moe' if sparse else 'mlp'}"
    if what in ("input_layernorm", "post_attention_layernorm"):
        return f"{f'{path}/attention' if what == 'input_layernorm' else network}/norm", index, False
    group, *rest = what.split(".")
    if group == "self_attn":
        return f"{path}/attention/{ATTENTION[rest[0]]}", index, "norm" not in rest[0]
    match rest:
        case ["gate"]:
            return f"{network}/router", index, True
        case ["experts", expert, word]:
            return f"{network}/experts/{NETWORK[word]}", (*index, int(expert)), True
        case ["shared_experts", word]:
            return f"{network}/shared_experts/{NETWORK[word]}", index, True
        case [word]:
            return f"{network}/{NETWORK[word]}", index, True
