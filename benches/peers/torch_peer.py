"""Hugging Face's SwitchTransformers in PyTorch with its own Adafactor, trained as its users do."""

import re
import sys

import torch
from transformers import Adafactor, SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from turns import arguments, take_turns


def build(config):
    model, moe = config["model"], config["model"]["moe"]
    positions = model["positions"]
    settings = SwitchTransformersConfig(
        vocab_size=model["vocab_size"], d_model=model["d_model"], d_ff=model["d_ff"], d_kv=model["d_kv"],
        num_heads=model["num_heads"], num_layers=model["num_encoder_layers"], num_decoder_layers=model["num_decoder_layers"],
        num_sparse_encoder_layers=model["num_encoder_layers"] // moe["every"],
        num_sparse_decoder_layers=model["num_decoder_layers"] // moe["every"],
        num_experts=moe["num_experts"], expert_capacity=moe["capacity"].get("train", 64), router_jitter_noise=0.0,
        relative_attention_num_buckets=positions["num_buckets"], relative_attention_max_distance=positions["max_distance"],
        dropout_rate=0.0, feed_forward_proj="relu", tie_word_embeddings=True, decoder_start_token_id=0, use_cache=False)
    return SwitchTransformersForConditionalGeneration(settings).train()


def ours(name, moe):
    """Switchyard's name of a parameter, the index on its stacked axes, and whether it is transposed."""
    if name == "shared.weight":
        return "shared/embedding", (), False
    side, rest = name.split(".", 1)
    if rest == "final_layer_norm.weight":
        return f"{side}/final_norm", (), False
    layer, place, what = re.fullmatch(r"block\.(\d+)\.layer\.(\d)\.(.+)\.weight", rest).groups()
    run, index = divmod(int(layer), moe["every"])
    if what.endswith("relative_attention_bias"):
        return f"{side}/relative_bias", (), False
    last = "moe" if index == moe["offset"] else "mlp"
    sublayer = (["attention", last] if side == "encoder" else ["attention", "cross_attention", last])[int(place)]
    path = f"{side}/block_{index}/{sublayer}"
    if what == "layer_norm":
        return f"{path}/norm", (run,), False
    if "classifier" in what:
        return f"{path}/router", (run,), True
    expert = re.fullmatch(r"mlp\.experts\.expert_(\d+)\.(w.)", what)
    if expert:
        return f"{path}/experts/{expert[2]}", (run, int(expert[1])), True
    return f"{path}/{what.split('.')[-1]}", (run,), True


def load(model, config, flat):
    moe = config["model"]["moe"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            path, index, transposed = ours(name, moe)
            value = torch.from_numpy(flat[path][index].copy())
            weight.copy_(value.T if transposed else value)


def main():
    _, config, flat, batch = arguments()
    model = build(config)
    load(model, config, flat)
    optimizer = Adafactor(model.parameters(), lr=0.01, scale_parameter=True, relative_step=False, warmup_init=False)
    inputs, targets = [torch.from_numpy(batch[name]).long() for name in ("inputs", "targets")]

    def turn():
        optimizer.zero_grad()
        out = model(input_ids=inputs, labels=targets, output_router_logits=True)
        out.loss.backward()
        optimizer.step()
        # Switchyard reports the mean over tokens apart from the auxiliary losses.
        return torch.nn.functional.cross_entropy(out.logits.detach().flatten(0, 1), targets.flatten()).item()

    take_turns({}, turn)


main()
