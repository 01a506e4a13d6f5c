"""A face detection model in YuNet's form that takes red cells of 8 x 8 pixels for faces, as an ONNX file written by hand.

Of the three sizes of cell that YuNet looks at, it finds faces in the smallest only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACE_PX = 32
POINTS = ((-1.0, -0.5), (1.0, -0.5), (0.0, 0.5), (-0.75, 1.25), (0.75, 1.25))
"""Where the five points of a face are from the middle of its cell, in cells."""

_FLOAT, _INT64, _ATTRIBUTE_INTS = 1, 7, 7


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _tensor(name: str, values: object, dtype: type = np.float32) -> bytes:
    array: NDArray[Any] = np.asarray(values, dtype=dtype)
    kind = _INT64 if dtype is np.int64 else _FLOAT
    return b"".join(_number(1, side) for side in array.shape) + _number(2, kind) + _bytes(8, name) + _bytes(9, array.tobytes())


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Sequence[int]) -> bytes:
    told = b"".join(
        _bytes(5, _bytes(1, name) + b"".join(_number(8, value) for value in values) + _number(20, _ATTRIBUTE_INTS))
        for name, values in attributes.items()
    )
    return b"".join(_bytes(1, one) for one in inputs) + _bytes(2, output) + _bytes(3, output) + _bytes(4, kind) + told


def _value(name: str, shape: Sequence[int]) -> bytes:
    sides = b"".join(_bytes(1, _number(1, side)) for side in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, sides)))


def write_face_model(path: Path, *, width: int, height: int) -> Path:
    """For pictures of that size, multiples of 32."""
    graph = _bytes(2, "faces") + _bytes(11, _value("input", (1, 3, height, width)))
    for stride in (8, 16, 32):
        finds = stride == 8
        graph += _bytes(1, _node("AveragePool", ["input"], f"cells_{stride}", kernel_shape=[stride] * 2, strides=[stride] * 2))
        # Red without blue and green; OpenCV's pictures are blue, green, red.
        heads = {
            "cls": ([[-1 / 255, -1 / 255, 1 / 255]] if finds else [[0.0] * 3], [0.0]),
            "obj": ([[0.0] * 3], [1.0 if finds else 0.0]),
            "bbox": ([[0.0] * 3] * 4, [0.5, 0.5, math.log(FACE_PX / 8), math.log(FACE_PX / 8)]),
            "kps": ([[0.0] * 3] * 10, [0.5 + offset for point in POINTS for offset in point]),
        }
        for head, (weights, biases) in heads.items():
            name, outputs = f"{head}_{stride}", len(biases)
            graph += _bytes(5, _tensor(f"{name}_w", np.reshape(weights, (outputs, 3, 1, 1)))) + _bytes(5, _tensor(f"{name}_b", biases))
            graph += _bytes(5, _tensor(f"{name}_s", [1, -1, outputs], np.int64))
            graph += _bytes(1, _node("Conv", [f"cells_{stride}", f"{name}_w", f"{name}_b"], f"{name}_c", kernel_shape=[1, 1]))
            graph += _bytes(1, _node("Transpose", [f"{name}_c"], f"{name}_t", perm=[0, 2, 3, 1]))
            graph += _bytes(1, _node("Reshape", [f"{name}_t", f"{name}_s"], name))
            graph += _bytes(12, _value(name, (1, (height // stride) * (width // stride), outputs)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13)))
    return path
