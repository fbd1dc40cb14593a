"""Models and batches to compare: small ones of every kind, with random weights."""

from dataclasses import dataclass

import numpy as np

# Encoder-decoder: two stacks, padding behind the tokens of one row.
SIZES = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2,
         "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "decoder_start_token_id": 0}
SWITCH = SIZES | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 64}
DEEP = SWITCH | {"num_layers": 6, "num_decoder_layers": 6}
WIDE = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "vocab_size": 512, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128}

# Decoders alone: one row of tokens, whose next ones are predicted.
MIXTRAL = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "head_dim": 4, "num_local_experts": 4, "pad_token_id": 0, "eos_token_id": 1}
DEEPSEEK = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "moe_intermediate_size": 12, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 8, "n_shared_experts": 2, "n_group": 4,
            "topk_group": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "q_lora_rank": 5, "kv_lora_rank": 6,
            "qk_nope_head_dim": 5, "qk_rope_head_dim": 4, "v_head_dim": 3, "pad_token_id": 0, "eos_token_id": 1}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4, "beta_slow": 1}


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
    # Whether the fixture has generated tokens too.
    generates: bool = False
    seed: int = 0


    @property
    def decoder_only(self):
        return "num_hidden_layers" in self.config


def cases():
    found = [
        Case("switch", "ample capacity", SWITCH, fixture=True),
        Case("switch", "tight capacity", SWITCH | {"expert_capacity": 2}, drops=True, fixture=True, generates=True),
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
        Case("mixtral", "grouped queries, padding on the right", MIXTRAL, fixture=True, generates=True),
        Case("mixtral", "YaRN, padding on the left", MIXTRAL | {"rope_scaling": YARN, "rope_theta": 1e4}, "left", (40,), fixture=True),
        Case("mixtral", "3 of 8 experts, a head per query", MIXTRAL | {"num_local_experts": 8, "num_experts_per_tok": 3,
             "num_key_value_heads": 4, "rope_theta": 5e5}, "none"),
        Case("mixtral", "tied", MIXTRAL | {"tie_word_embeddings": True}),
        Case("mixtral", "bfloat16 weights in shards", MIXTRAL, dtype="bfloat16", shard="8KB"),
        Case("mixtral", "wide", MIXTRAL | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
             "num_attention_heads": 8, "head_dim": 16, "num_local_experts": 8}, lengths=(64,), rows=4),
        Case("deepseek_v3", "groups, shared experts, a dense block, padding on the right", DEEPSEEK, fixture=True,
             generates=True),
        Case("deepseek_v3", "YaRN, queries without latent, padding on the left",
             DEEPSEEK | {"q_lora_rank": None, "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}}, "left", (40,),
             fixture=True),
        Case("deepseek_v3", "one group, halves turned, gates as they are",
             DEEPSEEK | {"n_group": 1, "topk_group": 1, "rope_interleave": False, "norm_topk_prob": False,
                         "routed_scaling_factor": 1.5, "first_k_dense_replace": 0}, "none"),
        Case("deepseek_v3", "bfloat16 weights in shards, the bias in float32", DEEPSEEK, dtype="bfloat16", shard="8KB"),
        Case("deepseek_v3", "wide", DEEPSEEK | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32,
             "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 16, "n_shared_experts": 1,
             "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
             "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.0}}, lengths=(64,), rows=4),
        # Behind the others, whose numbers then stay as they are.
        Case("switch", "every second block sparse, every third in the decoder",
             DEEP | {"num_sparse_encoder_layers": 3, "num_sparse_decoder_layers": 2, "expert_capacity": 3}, drops=True, fixture=True, generates=True),
        Case("switch", "all blocks sparse in the encoder alone",
             SWITCH | {"num_sparse_encoder_layers": 2, "expert_capacity": 2}, "left", drops=True, fixture=True),
        # More sparse blocks than blocks is how its settings say none.
        Case("switch", "a dense decoder", SWITCH | {"num_sparse_decoder_layers": 3, "expert_capacity": 2}, drops=True, fixture=True),
        Case("switch", "a dense encoder", SWITCH | {"num_sparse_encoder_layers": 3, "expert_capacity": 2}, drops=True),
    ]
    for number, case in enumerate(found):
        case.seed = number
    models = list(dict.fromkeys(case.model for case in found))
    return sorted(found, key=lambda case: models.index(case.model))


def batch(case):
    """Tokens without 0, padding by 0 where the case has it; targets of their own have padding behind them in every other row."""
    dice = np.random.default_rng(1000 + case.seed)
    vocabulary = case.config["vocab_size"]
    lengths = case.lengths[:1] if case.decoder_only else case.lengths
    rows = [dice.integers(2, vocabulary, (case.rows, n), dtype=np.int32) for n in lengths]
    for row in range(1, case.rows, 2):
        size = int(dice.integers(2, case.lengths[0] // 2))
        if case.padding == "right":
            rows[0][row, -size:] = 0
        elif case.padding == "left":
            rows[0][row, :size] = 0
        if not case.decoder_only:
            rows[1][row, -int(dice.integers(1, case.lengths[1] // 2)):] = 0
    return dict(zip(["targets"] if case.decoder_only else ["inputs", "targets"], rows))


def prompts(case):
    """What a decoder alone continues: the first tokens of each row, of different lengths, padded on the left to one width."""
    rows = [row[row != 0][:3 + number] for number, row in enumerate(batch(case)["targets"])]
    width = max(map(len, rows))
    return np.stack([np.pad(row, (width - len(row), 0)) for row in rows]).astype(np.int32)
