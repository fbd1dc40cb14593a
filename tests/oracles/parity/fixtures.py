"""Writes the cases of `tests/fixtures` anew: `fixtures.py FOLDER`.

Each is a folder as users have it, with a batch and what `transformers` makes of it.
"""

import pathlib
import re
import shutil
import sys

from safetensors.numpy import save_file

import cases
import reference

# Tokens that a case generates.
TOKENS = 6

def main():
    target = pathlib.Path(sys.argv[1])
    for case in cases.cases():
        if case.fixture:
            write(case, target / re.sub(r"[^a-z0-9]+", "_", f"{case.model} {case.name}".lower()))


def write(case, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = reference.build(case)
    reference.save(model, case, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    found = reference.run(model, case)
    expected = {}
    for name, value in found.items():
        if name.endswith("/router_logits"):
            assert not reference.doubtful(value).any(), f"{case.name}: two experts are too close"
            expected[name.replace("router_logits", "decisions")] = reference.decisions(case, value)[..., None]
        elif name.endswith("/doubtful"):
            assert not value.any(), f"{case.name}: two experts are too close"
        else:
            expected[name] = value.copy(order="C")
    batch = cases.batch(case)
    if case.generates:
        rows = batch["prompt"] = cases.prompts(case) if case.decoder_only else batch["inputs"]
        expected["generated"] = reference.generate(model, case, rows, TOKENS)
    save_file(batch, folder / "batch.safetensors")
    save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
