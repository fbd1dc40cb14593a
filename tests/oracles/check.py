"""Compares this project with JAX (and with TensorBoard's reader); prints a table, exits with 1 on a difference.

    check.py CASES SWITCHYARD

CASES is the folder that the tests `write_cases` and `write_events` filled, SWITCHYARD the command. `make oracles` does both.
"""

import os
import pathlib
import shutil
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_enable_x64", True)

import events
import models
import report
import rules


def main():
    cases, command = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    folder = cases / "models"
    shutil.rmtree(folder, ignore_errors=True)
    rows = rules.check(cases) + models.check(command, folder) + events.check(cases / "events")
    return 0 if report.table(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
