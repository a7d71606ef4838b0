"""Fuzz one parser guided by coverage, with atheris: `python -m fuzzing.coverage metadata --minutes 10`.

What it finds is written to `build/fuzz/`; `--replay FILE` runs it again.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click

_SEEDS_OF: Mapping[str, tuple[str, ...]] = {
    "metadata": (),
    "self-test": (),
    "config": ("workspace/config.toml",),
    "classes": ("workspace/data/ds/classes.toml",),
    "import": (),
    "model": ("model.onnx",),
    "checkpoint": ("workspace/saved/ds_v1.pth",),
    "zarr": ("zarrs/v3.zarr/zarr.json", "zarrs/ome5.zarr/zarr.json"),
    "zarr2": ("zarrs/v2.zarr/.zarray", "zarrs/v2blosc.zarr/.zarray"),
    "png": ("pictures/grey.png", "pictures/palette.png"),
    "ledger": ("run/labels/.matseg/job.json",),
}
_GUIDED = (
    "matseg_runtime.ledger",
    "matseg_runtime.inference.session",
    "matseg_runtime.source.zarr",
    "matseg_runtime.model.guard",
    "matseg_shared.images.read",
    "matseg_trainer.predict.checkpoint_header",
    "matseg_trainer.config.versions",
    "matseg_trainer.config.import_guide",
)
"""Modules that the parsers are in, with what these import."""
_SECONDS = 10
"""For one input; more is a hang."""
_MEGABYTES = 1024


@click.command()
@click.argument("target", type=click.Choice(list(_SEEDS_OF)))
@click.option("--minutes", type=float, default=1.0, show_default=True)
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="Only this input.")
def main(target: str, minutes: float, replay: Path | None) -> None:
    """Give TARGET inputs that lead to new branches; only errors that MatSeg raises on purpose may come out."""
    import atheris

    with atheris.instrument_imports(include=["matseg_shared", "matseg_runtime", "matseg_trainer", "tomllib"]):
        for module in _GUIDED:  # those that are imported later have no coverage to be guided by
            importlib.import_module(module)

    folder = Path(tempfile.mkdtemp(prefix="matseg-fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    seeds = _seeds(target)
    for number, content in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(content)
    one = _wrapped(_parsers(folder)[target])
    if replay is not None:
        one(replay.read_bytes())
        return
    found = Path("build/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    limits = (
        f"-max_total_time={round(60 * minutes)}",
        f"-timeout={_SECONDS}",
        f"-malloc_limit_mb={_MEGABYTES}",
        f"-rss_limit_mb={2 * _MEGABYTES}",
        f"-max_len={max(65536, 2 * max(map(len, seeds)))}",  # longer seeds would be cut off
        f"-artifact_prefix={found}/{target}-",
    )
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one)
    atheris.Fuzz()


def _seeds(target: str) -> list[bytes]:
    from fuzzing.models import properties_of
    from fuzzing.seeds import make_seeds

    root = Path(tempfile.mkdtemp(prefix="matseg-seeds-")) / "seeds"
    make_seeds(root)
    properties = properties_of((root / "model.onnx").read_bytes())
    if target == "metadata":
        return [properties["matseg"].encode()]
    if target == "self-test":
        return [properties["matseg_self_test"].encode()]
    if target == "import":
        return [b"config = {'ds': {'v1': {'model': 'unet', 'n_class': 3, 'lr': 1e-4, 'size': (24, 32)}}}\n"]
    return [(root / name).read_bytes() for name in _SEEDS_OF[target]]


def _wrapped(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    from matseg_shared.errors import MatsegError

    def one(content: bytes) -> None:
        try:
            parse(content)
        except MatsegError:
            return

    return one


def _parsers(folder: Path) -> Mapping[str, Callable[[bytes], object]]:
    """Function of each target over its bytes."""
    import onnx_models

    from matseg_runtime.inference.session import Session
    from matseg_runtime.ledger import read_key
    from matseg_runtime.source.base import SourceOptions
    from matseg_runtime.source.zarr import open_zarr
    from matseg_shared.contract.classes import read_classes
    from matseg_shared.contract.onnx_properties import DOCUMENT_KEY, SELF_TEST_KEY, decode, decode_self_test
    from matseg_shared.images.read import read_image
    from matseg_trainer.config.import_guide import read_matseg_config
    from matseg_trainer.config.load import load_config
    from matseg_trainer.predict.checkpoint_header import read_training

    good = onnx_models.build_metadata()

    def as_file(name: str, content: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def zarr(name: str) -> Callable[[bytes], object]:
        return lambda content: open_zarr(str(as_file(name, content).parent), SourceOptions())

    return {
        "metadata": lambda content: decode({DOCUMENT_KEY: content.decode("utf-8", "replace")}, "model.onnx"),
        "self-test": lambda content: decode_self_test(
            {SELF_TEST_KEY: content.decode("utf-8", "replace")}, good, "model.onnx"
        ),
        "config": lambda content: load_config(as_file("config.toml", content)),
        "classes": lambda content: read_classes(as_file("classes.toml", content)),
        "import": lambda content: read_matseg_config(as_file("config.py", content)),
        "model": lambda content: Session.open(as_file("m.onnx", content), provider="cpu", threads=1),
        "checkpoint": lambda content: read_training(as_file("c.pth", content)),
        "zarr": zarr("v3.zarr/zarr.json"),
        "zarr2": zarr("v2.zarr/.zarray"),
        "png": lambda content: read_image(as_file("p.png", content)),
        "ledger": lambda content: read_key(as_file("l/job.json", content).parent),
    }


if __name__ == "__main__":
    main()
