"""Change bytes of a model at random, and see what becomes of the files that the runtime does not refuse.

    python benchmarks/mutated_models.py MODEL [--seconds 300] [--seed 0]

What passes is read by onnx, which must see nothing in it that no model of ours has, and is then loaded and run by
onnxruntime in a process of its own, which must not crash. Bytes of weights stay as they are: any weights are a model.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx

from matseg_runtime.inference.providers import load_onnxruntime
from matseg_runtime.model.guard import OPERATORS, check_model
from matseg_shared.errors import ModelError

BATCH = 300
"""Mutations per process."""
LIKELY = (0, 1, 2, 4, 127, 128, 255)
SMALL = 16
"""Bytes of a weight below which it may be a shape or an index, and is changed too."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-batch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_batch:
        print(*one_batch(options.model, options.seed))
        return
    end, totals, failures = time.monotonic() + options.seconds, np.zeros(4, int), []
    while time.monotonic() < end or not totals.any():
        words = [__file__, str(options.model), "--one-batch", "--seed", str(options.seed)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            failures.append(options.seed)
            print(f"seed {options.seed} ended with {done.returncode}: {done.stderr[-300:]}")
        else:
            totals += [int(word) for word in done.stdout.split()[-4:]]
        options.seed += 1
    print(f"{totals[0]} mutations: {totals[1]} not refused, {totals[2]} loaded, {totals[3]} ran")
    print(f"{len(failures)} processes crashed, or saw what is not allowed")
    sys.exit(bool(failures))


def one_batch(path: Path, seed: int) -> tuple[int, int, int, int]:
    """Numbers of mutations, of those not refused, of those loaded, of those that ran."""
    original = onnx.load(path)
    del original.metadata_props[:]  # JSON and base64 are read by others
    content = original.SerializeToString()
    places = changeable(original, content)
    rng = random.Random(seed)
    passed = loaded = ran = 0
    for _ in range(BATCH):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            changed[rng.choice(places)] = rng.choice((rng.randrange(256), *LIKELY))
        try:
            check_model(path, bytes(changed))
        except ModelError:
            continue
        passed += 1
        require_harmless(bytes(changed))
        reached = use(bytes(changed))
        loaded += reached > 0
        ran += reached > 1
    return BATCH, passed, loaded, ran


def changeable(model: onnx.ModelProto, content: bytes) -> list[int]:
    """Every byte but those of large weights."""
    kept = set()
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > SMALL:
            start = content.find(tensor.raw_data)
            kept.update(range(start, start + len(tensor.raw_data)))
    return [place for place in range(len(content)) if place not in kept]


def require_harmless(content: bytes) -> None:
    """Content as onnx sees it; what it cannot read, onnxruntime cannot either."""
    try:
        found = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's readers have errors of their own
        return
    assert not found.functions
    assert not found.training_info
    assert not found.graph.sparse_initializer
    assert not any(tensor.external_data or tensor.data_location for tensor in found.graph.initializer)
    for node in found.graph.node:
        assert node.op_type in OPERATORS, node.op_type
        assert node.domain in ("", "ai.onnx"), node.domain
        assert not any(item.HasField("g") or item.graphs for item in node.attribute)


def use(content: bytes) -> int:
    """0: not loaded; 1: loaded; 2: ran."""
    runtime = load_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.load_model_format", "ONNX")
    reached = 0
    try:
        session = runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        reached = 1
        image = session.get_inputs()[0]
        dtype = {"tensor(uint16)": np.uint16, "tensor(float)": np.float32}.get(image.type, np.uint8)
        session.run(None, {image.name: np.zeros((1, 1, 32, 32), dtype)})
        reached = 2
    except Exception:  # refused in words is what is wanted
        pass
    return reached


if __name__ == "__main__":
    main()
