"""ONNX files in half precision: float16 constants, cast to float32 where the graph uses them."""

from __future__ import annotations

from pathlib import Path

from components.base.errors import FarposeError
from components.base.files import atomic_file

SUFFIX = "_half"


def store(source: Path, target: Path, mixed: bool = False) -> int:
    """Write an ONNX file whose float32 constants are float16, if none of them changes by that; the same file gives the same bytes.

    ONNX Runtime folds the casts when it loads the file, so speed and outputs are those of the source.

    Args:
        mixed: keep constants that would change as they are, instead of refusing the file.
    Returns:
        how many numbers were narrowed.
    Raises:
        FarposeError: the source is no ONNX file, or a constant is not a number of half precision.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf's and the system's errors have no common class
        raise FarposeError("no ONNX file", where=source, fix="give an .onnx file") from error
    graph, casts, narrowed = model.graph, [], 0
    for constant in graph.initializer:
        if constant.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            if mixed:
                continue
            raise FarposeError(f"constant {constant.name!r} loses digits in half precision", where=source, fix="store it as it is")
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(half, name + SUFFIX))
        casts.append(helper.make_node("Cast", [name + SUFFIX], [name], to=TensorProto.FLOAT))
        narrowed += values.size
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    with atomic_file(target) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return narrowed
