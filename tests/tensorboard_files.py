"""Files of TensorBoard, for tests."""

from __future__ import annotations

from pathlib import Path


def read_events(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows: name -> step -> value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
