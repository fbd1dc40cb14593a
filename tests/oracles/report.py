"""Differences, and the table of results."""

import numpy as np


def difference(ours, theirs):
    """The largest difference of two lists of tensors, each relative to the largest element of its tensor (at least 1).

    Infinite where shapes, types or places of non-finite elements differ.
    """
    ours, theirs = [[np.asarray(x) for x in side] for side in (ours, theirs)]
    if [(x.shape, x.dtype) for x in ours] != [(x.shape, x.dtype) for x in theirs]:
        print([(x.shape, x.dtype) for x in ours], [(x.shape, x.dtype) for x in theirs])
        return np.inf
    return max([tensor_difference(x, y) for x, y in zip(ours, theirs)], default=0.0)


def tensor_difference(x, y):
    if x.size == 0:
        return 0.0
    x, y = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(x[finite]).all():
        return np.inf
    return float(np.max(np.abs(x[finite] - y[finite]), initial=0) / max(1.0, np.max(np.abs(y[finite]), initial=0)))


class Row:
    """A line of the table: the worst error of each kind, and where it was."""

    def __init__(self, part, name, tolerance=None):
        self.part, self.name, self.tolerance = part, name, tolerance
        self.errors, self.failures, self.count = {}, [], 0

    def add(self, kind, error, where, tolerance=None):
        """Counts a comparison; its tolerance is that of the row unless given."""
        error, tolerance = float(error), self.tolerance if tolerance is None else tolerance
        self.count += 1
        self.errors[kind] = max(error, self.errors.get(kind, 0.0))
        if not error <= tolerance:
            self.failures.append(f"{where}: {kind} differs by {error:.2g}, more than {tolerance:g}")


def table(rows):
    """Prints all rows and failures; returns whether there are none."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        errors = "  ".join(f"{kind} {error:8.1e}" for kind, error in row.errors.items())
        print(f"{'FAIL' if row.failures else 'ok':<5}{row.part:<7}{row.name:<{width}}  {errors}")
    failures = [failure for row in rows for failure in row.failures]
    for failure in failures:
        print("  " + failure)
    worst = {}
    for row in rows:
        worst[row.part] = max(worst.get(row.part, 0.0), *row.errors.values())
    print(", ".join(f"{part}: worst {error:.1e}" for part, error in worst.items()))
    print(f"{sum(r.count for r in rows)} comparisons in {len(rows)} rows, {len(failures)} failures")
    return not failures
