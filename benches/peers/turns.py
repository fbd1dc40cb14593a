"""What a peer and `compare.py` say to each other: JSON lines. The peer says what it cost to start; then, for each line it
reads, it runs one step and says its loss and seconds."""

import json
import sys
import time

from safetensors.numpy import load_file


def weights(params):
    """The parameters in a file of the whole state."""
    return {name: value for name, value in load_file(params).items() if "/" in name and not name.startswith("optimizer/")}


def arguments():
    """Form, configuration, parameters and batch, from the command line."""
    form, config, params, batch = sys.argv[1:]
    with open(config) as file:
        config = json.load(file)
    return form, config, weights(params), load_file(batch)


def take_turns(start, step):
    print(json.dumps(start), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = step()
        print(json.dumps({"loss": loss, "seconds": time.perf_counter() - begin}), flush=True)
