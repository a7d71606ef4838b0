"""Blind mutations: what a bad disk, a cut transfer or a wrong program does to bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

EDGES = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
"""Numbers at which lengths and counters overflow."""
_INTEGERS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")


def mutate_octets(random: Random, content: bytes, donors: Sequence[bytes] = (), most: int = 3) -> bytes:
    """`content` after one to `most` mutations; `donors` are what pieces are spliced in from."""
    data = bytearray(content)
    for _ in range(random.randint(1, most)):
        random.choice(_MUTATIONS)(random, data, donors)
    return bytes(data)


def _span(random: Random, data: bytearray, longest: int = 64) -> slice:
    start = random.randrange(len(data) + 1)
    return slice(start, min(len(data), start + random.randint(1, longest)))


def _flip(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _flip_near_start(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Headers stand there."""
    for _ in range(random.choice((1, 2))):
        if data:
            data[random.randrange(min(len(data), 128))] = random.randrange(256)


def _truncate(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[random.randrange(len(data) + 1) :]


def _delete(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_span(random, data)]


def _repeat(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    where = _span(random, data)
    data[where.start : where.start] = data[where] * random.choice((1, 1, 2, 50))


def _zeros(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    where = _span(random, data, 512)
    data[where] = bytes(where.stop - where.start)


def _noise(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    where = _span(random, data)
    data[where] = random.randbytes(where.stop - where.start)


def _number(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    kind = random.choice(_INTEGERS)
    size = struct.calcsize(kind)
    if len(data) < size:
        return
    value = random.choice((*EDGES, random.getrandbits(8 * size))) % (1 << 8 * size)
    at = random.randrange(len(data) - size + 1)
    struct.pack_into(kind, data, at, value)


def _splice(random: Random, data: bytearray, donors: Sequence[bytes]) -> None:
    if donors:
        donor = bytearray(random.choice(donors))
        data[_span(random, data, 512)] = donor[_span(random, donor, 512)]


def _swap(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    if len(data) > 2:
        first, second = sorted(random.sample(range(len(data)), 2))
        data[first:second] = data[first:second][::-1] if random.random() < 0.2 else data[first:second]
        data[first], data[second] = data[second], data[first]


_Mutation = Callable[[Random, bytearray, Sequence[bytes]], None]
_MUTATIONS: tuple[_Mutation, ...] = (
    _flip,
    _flip,
    _flip_near_start,
    _flip_near_start,
    _truncate,
    _delete,
    _repeat,
    _zeros,
    _noise,
    _number,
    _number,
    _splice,
    _swap,
)
