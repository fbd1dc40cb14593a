"""Compares the command with Hugging Face `transformers` and writes the table of docs/parity.md; exits with 1 on a difference.

    check.py SWITCHYARD WORK [PAGE]

SWITCHYARD is the command, WORK a folder for what is made on the way, PAGE the page whose table is rewritten. `make parity`
does all that.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

import cases
import names
import reference

LIMITS = {"logits": 1e-5, "loss": 1e-5, "states": 1e-5, "gradients": 1e-4, "choices": 0, "generation": 0, "round trip": 0}
# Tokens that are generated, and for how many rows of the batch.
TOKENS, ROWS = 10, 2


def main():
    command, work = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    shutil.rmtree(work, ignore_errors=True)
    rows = [row(command, work / f"{number:02}", case) for number, case in enumerate(cases.cases())]
    lines = table(rows)
    print("\n".join(lines))
    if len(sys.argv) > 3:
        rewrite(pathlib.Path(sys.argv[3]), lines)
    return 0 if all(value <= LIMITS[kind] for _, errors in rows for kind, value in errors.items()) else 1


def call(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}:\n{done.stderr}")
    return done.stdout


def row(command, folder, case):
    """The errors of one case."""
    folder.mkdir(parents=True)
    model = reference.build(case)
    reference.save(model, case, folder / "there")
    theirs = reference.run(model, case)
    call(command, "import", folder / "there", "-o", folder / "here")
    ours = run(command, folder, case)
    errors = compare(case, json.loads((folder / "here/config.json").read_text())["model"], ours, theirs)
    errors["generation"] = differing_texts(command, folder, model, case)
    call(command, "export", folder / "here", "-o", folder / "back")
    errors["round trip"] = differing_tensors(folder / "there", folder / "back")
    print(f"{case.model}, {case.name}: {errors}", file=sys.stderr, flush=True)
    return case, errors


def run(command, folder, case):
    """The outputs of `forward` and `gradients` on the imported checkpoint."""
    batch = cases.batch(case)
    settings = sizes(sequences=case.rows, input_length=case.lengths[0], target_length=case.lengths[0 if case.decoder_only else 1])
    programs = ["--program", "forward", "--program", "gradients"]
    call(command, "compile", folder / "here/config.json", *settings, *programs, "-o", folder / "artifact")
    save_file(batch, folder / "inputs.safetensors")
    found = {}
    for program in ("forward", "gradients"):
        outputs = folder / f"{program}.safetensors"
        call(command, "run", folder / "artifact", "--program", program, "--checkpoint", folder / "here",
             "--inputs", folder / "inputs.safetensors", "--outputs", outputs)
        found |= load_file(outputs)
    return found


def sizes(**batch):
    return [part for name, value in batch.items() for part in ("--set", f"batch.{name}={value}")]


def differing_texts(command, folder, model, case):
    """Number of rows that the command continues otherwise, one by one; a row ends at token 1."""
    batch = cases.batch(case)
    rows = cases.prompts(case) if case.decoder_only else batch["inputs"]
    write_tokenizer(folder / "here/tokenizer.json", case.config["vocab_size"])
    length = rows.shape[1] + 1 + TOKENS
    settings = sizes(input_length=length, target_length=length if case.decoder_only else TOKENS)
    differing = 0
    for row in rows[:ROWS]:
        prompt = row[row != 0]
        found = call(command, "generate", folder / "here/config.json", *settings, "--checkpoint", folder / "here",
                     "--prompt", " ".join(f"w{token}" for token in prompt), "--max-tokens", TOKENS)
        # The command ends the text that an encoder reads.
        given = prompt if case.decoder_only else np.append(prompt, 1)
        expected = reference.generate(model, case, given[None].astype(np.int32), TOKENS)[0].tolist()
        expected = expected[:expected.index(1)] if 1 in expected else expected
        differing += found.split() != [f"w{token}" for token in expected]
    return differing


def write_tokenizer(path, vocabulary):
    """Words `w2`, `w3` and so on, each a token of that number; token 1 ends a text."""
    words = {"w0": 0, "</s>": 1} | {f"w{token}": token for token in range(2, vocabulary)}
    tree = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    path.write_text(json.dumps(tree))


def distance(ours, theirs):
    """The norm of the difference over the norm of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


def compare(case, config, ours, theirs):
    # Padding of a decoder alone attends to nothing that counts.
    places = (cases.batch(case)["targets"] != 0)[..., None] if case.decoder_only else 1
    errors = {
        "logits": distance(ours["logits"] * places, theirs["logits"]),
        "loss": distance(ours["loss"], theirs["loss"]),
        "gradients": worst_gradient(case, config, ours, theirs),
    }
    if case.decoder_only:
        differ = (np.sort(ours["decoder/decisions"], -1) != theirs["decoder/decisions"]).any(-1)
        return errors | {"choices": int((differ & ~theirs["decoder/doubtful"]).sum())}
    errors["states"] = distance(ours["encoder_states"], theirs["encoder_states"])
    sides = [name for name in theirs if name.endswith("/router_logits")]
    if sides:
        errors["choices"] = 0
    for name in sides:
        expected = reference.decisions(case, theirs[name])
        found = ours[name.replace("router_logits", "decisions")][..., 0]
        if case.drops:
            assert (expected < 0).any(), f"{case.name}: nothing is dropped"
        errors["choices"] += int(((found != expected) & ~reference.doubtful(theirs[name])).sum())
    return errors


def worst_gradient(case, config, ours, theirs):
    """The largest distance of a parameter's gradient. One that is zero there must be zero here."""
    worst = 0.0
    for name, expected in theirs.items():
        if not name.startswith("gradients/"):
            continue
        path, index, transposed = names.ours(name.removeprefix("gradients/"), config, config["tie_embeddings"])
        found = ours[f"gradients/{path}"][index]
        if case.decoder_only and case.config.get("tie_word_embeddings") and path == "shared/embedding":
            # One table there, two here, whose logits are not scaled.
            found = found + ours["gradients/head"]
        worst = max(worst, distance(found.T if transposed else found, expected))
    return worst


def differing_tensors(there, back):
    """Number of tensors that are not the same, byte for byte, under the same name."""
    first, second = [tensors(folder) for folder in (there, back)]
    assert first, there
    return sum(first.get(name) != second.get(name) for name in first.keys() | second.keys())


def tensors(folder):
    """Element type, shape and bytes of every tensor, read without any library."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], tuple(entry["shape"]), data[8 + size + begin:8 + size + end])
    return found


def table(rows):
    titles = ["model", "case", *LIMITS]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for case, errors in rows:
        cells = [case.model, case.name]
        for kind in LIMITS:
            value = errors.get(kind)
            cells.append("" if value is None else ("0" if isinstance(value, float) else "equal") if value == 0
                         else f"{value:.1e}" if isinstance(value, float) else f"{value} differ")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def rewrite(page, lines):
    text = page.read_text()
    between = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.S)
    assert between.search(text), f"{page} has no place for the table"
    page.write_text(between.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text))


if __name__ == "__main__":
    sys.exit(main())
