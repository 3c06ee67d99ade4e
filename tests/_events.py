"""Reads the event files that TensorBoard shows."""

from __future__ import annotations

import struct
from pathlib import Path


def scalars(file: Path) -> dict[tuple[str, int], float]:
    """TensorBoard's points of an events file: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]

    points, data = {}, file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        points |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    return points
