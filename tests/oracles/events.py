"""Event files as TensorBoard reads them."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from report import Row


def check(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    expected = {"loss": [(1, 10.0), (2, 5.0), (3, 10 / 3), (4, 7.5)], "load/min": [(4, 0.25)], "load/max": [(4, 0.75)]}
    row = Row("events", "tensorboard", 1e-6)
    tags = set(accumulator.Tags()["scalars"])
    row.add("tags", tags != set(expected), f"tags are {sorted(tags)}, expected {sorted(expected)}")
    for tag, points in expected.items():
        found = [(e.step, e.value) for e in accumulator.Scalars(tag)]
        same = [step for step, _ in found] == [step for step, _ in points]
        row.add("steps", not same, f"{tag}: {found}")
        if same:
            row.add("values", max(abs(a[1] - b[1]) for a, b in zip(found, points)), tag)
    return [row]
