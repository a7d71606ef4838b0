"""All written files of the zoo: cards and both indexes, from what lies in its folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matseg_runtime.model.zoo import PREFIX, ZooIndex
from matseg_shared.system.files import write_text
from models_zoo.build.card import Card, markdown_table
from models_zoo.build.checkout import ZooCheckout

_INTRODUCTION = """\
# Models zoo

Trained models that can be used at once, by name: `matseg-run zoo:NAME INPUT`, `matseg-inspect zoo:NAME`,
`matseg-verify zoo:NAME`. Each folder has the model file and a card: data and licence, figures with their spread,
limits, and how to make it again. Where the files are looked for, and how to take them to a machine that has a wheel
only: [docs/running.md](../docs/running.md#trained-models-by-name).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One written file."""

    path: Path
    text: str


def pages(zoo: ZooCheckout) -> tuple[Page, ...]:
    """Cards and indexes as they should be.

    Raises:
        MatsegError: files of the zoo are missing, damaged or do not belong together.
    """
    cards = [Card.read(entry) for entry in zoo.built]
    index = ZooIndex(models=tuple(card.indexed for card in cards))
    return (
        *(Page(path=card.entry.card, text=card.text) for card in cards),
        Page(path=zoo.readme, text=_readme(cards)),
        Page(path=zoo.sums, text="".join(f"{item.sha256}  {item.file}\n" for item in index.models)),
        Page(path=zoo.index, text=index.model_dump_json(indent=1) + "\n"),
    )


def write_pages(zoo: ZooCheckout) -> tuple[Path, ...]:
    """Write the cards and indexes that are not as they should be.

    Returns:
        What was written.

    Raises:
        MatsegError: see `pages`.
        OutputError: they cannot be written.
    """
    changed = []
    for page in pages(zoo):
        if not page.path.is_file() or page.path.read_text(encoding="utf-8") != page.text:
            write_text(page.path, page.text)
            changed.append(page.path)
    return tuple(changed)


def _readme(cards: Sequence[Card]) -> str:
    rows = []
    for card in cards:
        item, figures = card.indexed, card.figures
        iou = "-" if figures.accuracy.mean_iou is None else f"{figures.accuracy.mean_iou:.3f}"
        rows.append(
            (
                f"[`{PREFIX}{item.name}`]({item.name}/README.md)",
                item.summary,
                ", ".join(item.classes),
                item.kind,
                f"{item.bytes / 1e6:.1f}",
                iou,
                f"{figures.speed.megapixels_per_second:.1f}",
            )
        )
    header = ("name", "labels", "classes", "network", "MB", "mean IoU, unseen images", "Mpixel/s")
    return (
        f"{_INTRODUCTION}\n{markdown_table(header, rows)}\n\n"
        "Speeds are of the machines that the cards name. [SHA256SUMS](SHA256SUMS) has the digest of every file, for\n"
        "`sha256sum --check` and `matseg-run --sha256`. This page, the cards, the digests and the index\n"
        "(`runtime/matseg_runtime/zoo_index.json`) are written by `python -m models_zoo.build cards`.\n"
    )
