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
}


def build(case):
    """The model of a case with weights of unit scale, gains around one and routers that decide clearly."""
    model_type, cls = CLASSES[case.model]
    config = AutoConfig.for_model(model_type, **case.config)
    config._attn_implementation = "eager"
    model = cls(config).eval()
    dice = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        if case.config.get("tie_word_embeddings") is False:
            # The library ties the head of T5 whatever the settings say, unless a file holds another; and it takes the
            # embeddings of the stacks of Switch apart too, which no published model does.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
            model.set_input_embeddings(model.shared)
        for name, weight in model.named_parameters():
            weight.copy_(sample(name, weight, dice))
        if case.dtype != "float32":
            # The numbers of a narrow file, computed with in float32.
            for weight in model.parameters():
                weight.copy_(weight.to(getattr(torch, case.dtype)).float())
    return model


def sample(name, weight, dice):
    normal = torch.randn(weight.shape, generator=dice)
    if "norm" in name:
        return 1 + 0.3 * normal
    if "bias" in name:
        return 0.5 * normal
    if "shared" in name or "embed" in name or "router" in name or "gate.weight" in name:
        return normal
    return normal * weight.shape[-1] ** -0.5


def save(model, case, folder):
    """Writes the folder that users have: the library's own format, in the case's element type."""
    narrow = model
    if case.dtype != "float32":
        import copy
        narrow = copy.deepcopy(model).to(getattr(torch, case.dtype))
    narrow.save_pretrained(folder, max_shard_size=case.shard)


def run(model, case):
    """Everything to compare, by name, in float32; gradients as `gradients/<name there>`."""
    batch = cases.batch(case)
    inputs, labels = [torch.from_numpy(batch[name]).long() for name in ("inputs", "targets")]
    labels = labels.masked_fill(labels == 0, -100)
    sparse = case.model == "switch"
    extra = {"output_router_logits": True} if sparse else {}
    out = model(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=labels, **extra)
    out.loss.backward()
    found = {"loss": out.loss, "logits": out.logits, "encoder_states": out.encoder_last_hidden_state}
    if sparse:
        for side, logits in [("encoder", out.encoder_router_logits), ("decoder", out.decoder_router_logits)]:
            found[f"{side}/router_logits"] = torch.stack(logits)
    # A tied tensor is one parameter; its gradient is that of all its uses.
    # One without a gradient is that of an expert that no token went to.
    parameters = model.named_parameters()
    found |= {f"gradients/{name}": torch.zeros_like(w) if w.grad is None else w.grad for name, w in parameters}
    return {name: value.detach().numpy().astype(np.float32) for name, value in found.items()}


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
