"""What `transformers` makes of a case: weights, logits, losses, states, router choices, gradients."""

import numpy as np
import torch
import transformers
from transformers import AutoConfig

import cases

torch.set_num_threads(1)

CLASSES = {
    "switch": ("switch_transformers", transformers.SwitchTransformersForConditionalGeneration),
    "t5": ("t5", transformers.T5ForConditionalGeneration),
    "mixtral": ("mixtral", transformers.MixtralForCausalLM),
    "deepseek_v3": ("deepseek_v3", transformers.DeepseekV3ForCausalLM),
}


def build(case):
    """The model of a case with weights of unit scale, gains around one and routers that decide clearly."""
    model_type, cls = CLASSES[case.model]
    config = AutoConfig.for_model(model_type, **case.config)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = cls(config).eval()
    dice = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        if case.config.get("tie_word_embeddings") is False and not case.decoder_only:
            # The library ties the head of T5 whatever the settings say, unless a file holds another; and it takes the
            # embeddings of the stacks of Switch apart too, which no published model does.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
            model.set_input_embeddings(model.shared)
        for name, weight in model.named_parameters():
            weight.copy_(sample(name, weight, dice))
        for _, bias in selection_biases(model):
            bias.copy_(0.2 * torch.randn(bias.shape, generator=dice))
        if case.dtype != "float32":
            # The numbers of a narrow file, computed with in float32.
            for weight in model.parameters():
                weight.copy_(weight.to(getattr(torch, case.dtype)).float())
    return model


def selection_biases(model):
    """What routers add to the scores that they choose by."""
    return [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")]


def sample(name, weight, dice):
    normal = torch.randn(weight.shape, generator=dice)
    if "norm" in name:
        return 1 + 0.3 * normal
    if "bias" in name:
        return 0.5 * normal
    if "mlp.gate.weight" in name:
        return normal * 2 * weight.shape[-1] ** -0.5
    if name == "shared.weight" or "embed" in name or "router" in name:
        return normal
    return normal * weight.shape[-1] ** -0.5


def save(model, case, folder):
    """Writes the folder that users have: the library's own format, in the case's element type."""
    narrow = model
    if case.dtype != "float32":
        import copy
        narrow = copy.deepcopy(model).to(getattr(torch, case.dtype))
        for (_, bias), (_, wide) in zip(selection_biases(narrow), selection_biases(model)):
            # As in published files.
            bias.data = wide.data
    narrow.save_pretrained(folder, max_shard_size=case.shard)


def run(model, case):
    """Everything to compare, by name; gradients as `gradients/<name in the file>`."""
    batch = cases.batch(case)
    if case.decoder_only:
        return run_decoder(model, case, torch.from_numpy(batch["targets"]).long())
    inputs, labels = [torch.from_numpy(batch[name]).long() for name in ("inputs", "targets")]
    labels = labels.masked_fill(labels == 0, -100)
    sparse = case.model == "switch"
    extra = {"output_router_logits": True} if sparse else {}
    out = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels, **extra)
    out.loss.backward()
    found = {"loss": out.loss, "logits": out.logits, "encoder_states": out.encoder_last_hidden_state}
    if sparse:
        for side, logits in [("encoder", out.encoder_router_logits), ("decoder", out.decoder_router_logits)]:
            found |= {f"{side}/router_logits": torch.stack(logits)} if logits else {}
    return {name: value.detach().numpy().astype(np.float32) for name, value in (found | gradients(model)).items()}


def run_decoder(model, case, tokens):
    """The same of a decoder alone, whose choices of experts come sorted, -1 for padding, with those that are too close to tell."""
    real = tokens != 0
    labels = tokens.masked_fill(~real, -100)
    # No token predicts the first of a row.
    labels[torch.arange(len(labels)), real.int().argmax(-1)] = -100
    routers, seen = [m for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")], []
    hooks = [m.register_forward_hook(lambda module, _, out: seen.append((module, out))) for m in routers]
    extra = {"output_router_logits": True} if case.model == "mixtral" else {}
    out = model(input_ids=tokens, attention_mask=real.long(), position_ids=(real.cumsum(-1) - 1).clamp(min=0),
                labels=labels, use_cache=False, **extra)
    [hook.remove() for hook in hooks]
    out.loss.backward()
    found = {"loss": out.loss, "logits": out.logits * real[..., None]} | gradients(model)
    found = {name: value.detach().numpy().astype(np.float32) for name, value in found.items()}
    shape, real = tokens.shape, real.numpy()
    chosen = [np.sort(out[2].numpy(), -1).reshape(*shape, -1) for _, out in seen]
    found["decoder/decisions"] = np.where(real[..., None], np.stack(chosen), -1).astype(np.int32)
    close = [too_close(case, module, out[0].detach().double().numpy()).reshape(shape) for module, out in seen]
    found["decoder/doubtful"] = np.stack(close) & real
    return found


def too_close(case, router, logits):
    """Whether the last choice and the next one differ by at most 1e-5, or the last group of experts and the next one."""
    gap = lambda scores, k: np.diff(-np.sort(-scores, -1)[:, k - 1:k + 1], axis=-1)[:, 0] if k < scores.shape[-1] else -np.inf
    k = case.config.get("num_experts_per_tok", 2)
    if case.model == "mixtral":
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        return -gap(probs / probs.sum(-1, keepdims=True), k) <= 1e-5
    scores = 1 / (1 + np.exp(-logits)) + router.e_score_correction_bias.double().numpy()
    groups = scores.reshape(len(scores), case.config["n_group"], -1)
    sums = np.sort(groups, -1)[..., -2:].sum(-1)
    kept = case.config["topk_group"]
    open_ = sums >= -np.sort(-sums, -1)[:, kept - 1:kept]
    limited = np.where(open_[..., None], groups, -1e9).reshape(scores.shape)
    return (-gap(limited, k) <= 1e-5) | (-gap(sums, kept) <= 1e-5)


def gradients(model):
    """By the names that files have."""
    found = {}
    # A tied tensor is one parameter; its gradient is that of all its uses.
    # One without a gradient is that of an expert that no token went to.
    for name, weight in model.named_parameters():
        found |= unpacked(model, name, torch.zeros_like(weight) if weight.grad is None else weight.grad)
    return {f"gradients/{name}": value for name, value in found.items()}


def unpacked(model, name, value):
    """A tensor of the library's memory under the names of its files, which hold each expert for itself."""
    mixtral = model.config.model_type == "mixtral"
    words = {"gate_up_proj": ["w1", "w3"], "down_proj": ["w2"]} if mixtral else {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]}
    if mixtral:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    start, _, last = name.rpartition(".")
    if not start.endswith(".experts") or value.dim() != 3:
        return {name: value}
    found = {}
    for expert, matrix in enumerate(value):
        parts = matrix.chunk(len(words[last]), 0)
        found |= {f"{start}.{expert}.{word}.weight": part.contiguous() for word, part in zip(words[last], parts)}
    return found


def generate(model, case, rows, count):
    """What each row is continued with, greedily: `s32[rows, count]`. `rows` are padded by 0."""
    rows = torch.from_numpy(rows).long()
    settings = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=0, decoder_start_token_id=0)
    # The library's cache of an encoder-decoder has as many layers as the encoder.
    settings.use_cache = case.config.get("num_decoder_layers") == case.config.get("num_layers")
    model.generation_config = settings
    found = model.generate(rows, attention_mask=(rows != 0).long(), generation_config=settings)
    return found[:, rows.shape[1] if case.decoder_only else 1:].numpy().astype(np.int32)


def decisions(case, router_logits):
    """The expert of each token, -1 where it was full: `s32[layers, rows, tokens]`, by a loop over tokens."""
    chosen = router_logits.argmax(-1).astype(np.int32)
    for row in chosen.reshape(-1, chosen.shape[-1]):
        taken = {}
        for place, expert in enumerate(row):
            taken[expert] = taken.get(expert, 0) + 1
            if taken[expert] > case.config["expert_capacity"]:
                row[place] = -1
    return chosen


def doubtful(router_logits):
    """Whether a token's two best probabilities are closer than 1e-5: `bool[layers, rows, tokens]`."""
    logits = router_logits.astype(np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    best = np.sort(probs / probs.sum(-1, keepdims=True), -1)
    return best[..., -1] - best[..., -2] <= 1e-5
