"""Colours for classes.

Default colours are those of Okabe and Ito (2008), told apart with every common kind of colour blindness.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Iterator, Sequence

Colour = tuple[int, int, int]

OKABE_ITO: tuple[Colour, ...] = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_MORE_HUES = 300
"""Enough for 255 classes, some colours being the same after rounding."""


def default_colours(n_class: int) -> tuple[Colour, ...]:
    """`n_class` distinct colours: the eight of Okabe and Ito, darker ones of them, then any hue.

    A class keeps its colour when more classes are added.
    """
    darker = (
        (int(red * shade), int(green * shade), int(blue * shade))
        for shade in (0.72, 0.52)
        for red, green, blue in OKABE_ITO[1:]
    )
    colours = dict.fromkeys(itertools.chain(OKABE_ITO, darker, _hues()) if n_class > 8 else OKABE_ITO)
    return tuple(itertools.islice(colours, n_class))


def full_palette(colours: Sequence[Colour]) -> tuple[Colour, ...]:
    """The 256 colours of a palette: of some classes, then a grey that is none of theirs, also of no data (255)."""
    greys = ((shade, shade, shade) for shade in itertools.chain(range(128, 256), range(128)))
    grey = next(shade for shade in greys if shade not in colours)
    return (*colours, *[grey] * (256 - len(colours)))


def _hues() -> Iterator[Colour]:
    """Hues a golden section apart, each in its turn strong, pale or dark."""
    for step in range(_MORE_HUES):
        saturation, value = ((0.9, 0.95), (0.45, 0.95), (0.9, 0.6))[step % 3]
        red, green, blue = colorsys.hsv_to_rgb(step * 0.618034 % 1, saturation, value)
        yield round(red * 255), round(green * 255), round(blue * 255)
