"""Time of a model's operators: every operator and layer of the graph that onnxruntime makes of it.

`python benchmarks/profile_graph.py MODEL.onnx` prints the time per operator, and per layer with its rate in GOP/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import onnx
from _common import reporting
from _profile import NodeTime, grey_image, profile

from matseg_shared.console.command import debug_option
from matseg_shared.contract.metadata import INPUT_NAME
from matseg_shared.errors import UsageError
from matseg_shared.system.machine import available_cpus


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--size", type=click.IntRange(min=1), default=864, show_default=True, help="Edge of the input in pixels."
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores of this process.")
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--top", type=click.IntRange(min=1), default=25, show_default=True, help="Nodes to print.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the report to this file too.")
@debug_option
def main(model: Path, size: int, threads: int | None, runs: int, top: int, save: Path | None) -> None:
    """Profile MODEL, a file of matseg-export for uint8 grey slices."""
    _require_grey(model)
    threads = threads or available_cpus()
    with reporting(f"Profile of {model.name}", save) as report:
        nodes = profile(model, grey_image(size), threads=threads, runs=runs)
        total = sum(node.milliseconds for node in nodes)
        operations = sum(node.operations for node in nodes)
        report.say(
            f"{size} x {size} pixels, {threads} thread(s), medians of {runs} runs: {total:.1f} ms in "
            f"{len(nodes)} nodes, {operations / 1e9:.1f} GOP in layers, {_rate(operations, total)} GOP/s in all.\n"
        )
        report.table(["operator", "nodes", "ms", "share", "GOP/s"], operator_rows(nodes))
        report.table(
            ["layer or tensor", "operator", "output", "ms", "share", "GOP", "GOP/s"], layer_rows(nodes, top)
        )


def operator_rows(nodes: Sequence[NodeTime]) -> list[list[str]]:
    """One row per operator, the costliest first."""
    total = sum(node.milliseconds for node in nodes)
    kinds = {node.operator: [item for item in nodes if item.operator == node.operator] for node in nodes}
    spent = {kind: sum(node.milliseconds for node in members) for kind, members in kinds.items()}
    return [
        [
            kind,
            str(len(kinds[kind])),
            f"{spent[kind]:.2f}",
            f"{spent[kind] / total:.1%}",
            _rate(sum(node.operations for node in kinds[kind]), spent[kind]),
        ]
        for kind in sorted(kinds, key=lambda kind: -spent[kind])
    ]


def layer_rows(nodes: Sequence[NodeTime], top: int) -> list[list[str]]:
    """One row per node, the costliest first."""
    total = sum(node.milliseconds for node in nodes)
    return [
        [
            node.layer,
            node.operator,
            " x ".join(map(str, node.shape)),
            f"{node.milliseconds:.2f}",
            f"{node.milliseconds / total:.1%}",
            f"{node.operations / 1e9:.2f}" if node.operations else "",
            _rate(node.operations, node.milliseconds),
        ]
        for node in sorted(nodes, key=lambda node: -node.milliseconds)[:top]
    ]


def _rate(operations: float, milliseconds: float) -> str:
    return f"{operations / milliseconds / 1e6:.0f}" if operations and milliseconds else ""


def _require_grey(model: Path) -> None:
    """Raise UsageError unless the file takes grey uint8 pixels."""
    try:
        inputs = {item.name: item.type.tensor_type for item in onnx.load(model).graph.input}
    except Exception as error:  # onnx lets protobuf's own errors through, of no common class
        raise UsageError(f"{model}: expected an ONNX file, found something else ({error})") from error
    kind = inputs.get(INPUT_NAME)
    shape = kind.shape.dim if kind is not None else []
    if kind is None or kind.elem_type != onnx.TensorProto.UINT8 or len(shape) != 4 or shape[1].dim_value != 1:
        raise UsageError(
            f"{model}: expected an input {INPUT_NAME!r} of grey uint8 pixels, found another; profile a file that "
            "matseg-export wrote for grey uint8 slices"
        )


if __name__ == "__main__":
    main()
