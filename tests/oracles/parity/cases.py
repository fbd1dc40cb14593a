"""Models and batches to compare: small ones of every kind, with random weights."""

from dataclasses import dataclass, field

import numpy as np

# Encoder-decoder: two stacks, padding behind the tokens of one row.
SIZES = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2,
         "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0}
SWITCH = SIZES | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 64}
DEEP = SWITCH | {"num_layers": 6, "num_decoder_layers": 6}
WIDE = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "vocab_size": 512, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128}


@dataclass
class Case:
    """One model and one batch. `padding` says where rows of inputs have it."""

    model: str
    name: str
    config: dict
    padding: str = "right"
    lengths: tuple = (12, 9)
    rows: int = 3
    dtype: str = "float32"
    shard: str = "5GB"
    # What must hold of the case, or it would show nothing.
    drops: bool = False
    fixture: bool = False
    seed: int = 0
    extra: dict = field(default_factory=dict)


def cases():
    found = [
        Case("switch", "ample capacity", SWITCH, fixture=True),
        Case("switch", "tight capacity", SWITCH | {"expert_capacity": 2}, drops=True, fixture=True),
        Case("switch", "tight capacity, padding on the left", SWITCH | {"expert_capacity": 2}, "left", drops=True, fixture=True),
        Case("switch", "no padding, capacity 1", SWITCH | {"expert_capacity": 1}, "none", drops=True),
        Case("switch", "every third block sparse, untied",
             DEEP | {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "expert_capacity": 3,
                     "tie_word_embeddings": False}, drops=True, fixture=True),
        Case("switch", "all blocks sparse",
             SWITCH | {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2, "expert_capacity": 3}, drops=True, fixture=True),
        Case("switch", "bfloat16 weights in shards", SWITCH | {"expert_capacity": 3}, dtype="bfloat16", shard="8KB"),
        Case("switch", "wide, 8 experts",
             DEEP | WIDE | {"num_experts": 8, "num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 3, "expert_capacity": 6},
             lengths=(48, 40), rows=4, drops=True),
        Case("t5", "v1.0, tied", SIZES, fixture=True),
        Case("t5", "v1.1, gated, untied", SIZES | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
             "left", fixture=True),
        Case("t5", "v1.1, gated, unequal stacks, float16 weights",
             SIZES | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}, dtype="float16"),
        Case("t5", "wide", SIZES | WIDE | {"num_layers": 4, "num_decoder_layers": 4}, lengths=(48, 40), rows=4),
    ]
    for number, case in enumerate(found):
        case.seed = number
    return found


def batch(case):
    """Tokens without 0, padding by 0 where the case has it, labels with padding behind them in every other row."""
    dice = np.random.default_rng(1000 + case.seed)
    vocabulary = case.config["vocab_size"]
    inputs, labels = [dice.integers(2, vocabulary, (case.rows, n), dtype=np.int32) for n in case.lengths]
    for row in range(1, case.rows, 2):
        size = int(dice.integers(2, case.lengths[0] // 2))
        if case.padding == "right":
            inputs[row, -size:] = 0
        elif case.padding == "left":
            inputs[row, :size] = 0
        labels[row, -int(dice.integers(1, case.lengths[1] // 2)):] = 0
    return {"inputs": inputs, "targets": labels}
