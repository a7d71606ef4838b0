"""Mutations of PNG, JPEG, BMP and TIFF that keep checksums and structure right where blind ones would be noticed."""

from __future__ import annotations

import struct
import zlib
from random import Random

from fuzzing.octets import EDGES, mutate_octets

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]


def png_chunks(content: bytes) -> list[Chunk]:
    """Type and content of every chunk."""
    chunks, at = [], len(_SIGNATURE)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[Chunk]) -> bytes:
    """A PNG file with right lengths and checksums."""
    parts = [_SIGNATURE]
    for kind, data in chunks:
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def mutate_png(random: Random, content: bytes) -> bytes:
    """A PNG whose chunks were changed; checksums are right."""
    chunks = png_chunks(content)
    for _ in range(random.randint(1, 2)):
        at = random.randrange(len(chunks)) if chunks else 0
        choice = random.randrange(8)
        if choice <= 2:
            chunks = [(kind, _header(random, data) if kind == b"IHDR" else data) for kind, data in chunks]
        elif choice == 3 and chunks:
            kind, data = chunks[at]
            chunks[at] = (kind, mutate_octets(random, data))
        elif choice == 4 and chunks:
            del chunks[at]
        elif choice == 5 and chunks:
            chunks.insert(random.randrange(len(chunks)), chunks[at])
        elif choice == 6:
            chunks.insert(random.randrange(len(chunks) + 1), _extra_chunk(random))
        else:
            chunks = [(kind, _idat(random, data) if kind == b"IDAT" else data) for kind, data in chunks]
    return png_of(chunks)


def _header(random: Random, data: bytes) -> bytes:
    if len(data) < 13:
        return data
    fields = list(struct.unpack(">IIBBBBB", data[:13]))
    at = random.randrange(7)
    small = (0, 1, 2, 3, 4, 6, 7, 8, 16, 32, 255)
    fields[at] = (
        random.choice((*EDGES, 5000, 13000, 20000, 46340)) % 2**32 if at < 2 else random.choice(small)
    )
    return struct.pack(">IIBBBBB", *fields)


def _extra_chunk(random: Random) -> Chunk:
    bomb = zlib.compress(bytes(8 << 20))
    return random.choice(
        (
            (b"tRNS", random.randbytes(random.choice((1, 2, 6, 256)))),
            (b"PLTE", random.randbytes(random.choice((1, 3, 300, 768, 900)))),
            (b"gAMA", bytes(4)),
            (b"iCCP", b"x\0\0" + bomb),
            (b"zTXt", b"x\0\0" + bomb),
            (b"iTXt", b"x\0\1\0\0\0" + bomb),
            (b"tEXt", b"x\0" + bytes(1000)),
            (b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
            (b"eXIf", b"Exif\0\0II*\0" + random.randbytes(20)),
            (b"acTL", struct.pack(">II", random.choice(EDGES), 0)),
            (b"fcTL", random.randbytes(26)),
            (b"pHYs", random.randbytes(9)),
            (b"sBIT", random.randbytes(3)),
            (random.randbytes(4), random.randbytes(8)),
        )
    )


def _idat(random: Random, data: bytes) -> bytes:
    try:
        raw = zlib.decompress(data)
    except zlib.error:
        return data
    choice = random.randrange(4)
    if choice == 0:
        raw = mutate_octets(random, raw)
    elif choice == 1:
        raw = raw[: len(raw) // 2]
    elif choice == 2:
        raw += bytes(random.choice((1, 1000, 64 << 20)))
    else:
        return zlib.compress(raw)[: -random.randint(1, 8)]
    return zlib.compress(raw, 1)


def mutate_jpeg(random: Random, content: bytes) -> bytes:
    """A JPEG whose frame header, tables or segments were changed."""
    data = bytearray(content)
    at = 2
    segments = []
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((at, length))
        at += 2 + length
    start, length = random.choice(segments)
    choice = random.randrange(4)
    if choice == 0:
        frames = [place for place, _ in segments if 0xC0 <= data[place + 1] <= 0xC2]
        if frames:
            field = frames[0] + 5 + 2 * random.randrange(2)
            struct.pack_into(">H", data, field, random.choice((0, 1, 9, 5000, 13000, 65500, 65535)))
    elif choice == 1:
        data[start + 4 : start + 2 + length] = mutate_octets(
            random, bytes(data[start + 4 : start + 2 + length])
        )
    elif choice == 2:
        data[start:start] = data[start : start + 2 + length]
    else:
        data[start + 1] = random.choice(
            (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xDB, 0xC4, 0xDD, 0xE1, 0xEE, 0xFE, 0xD9)
        )
    return bytes(data)


def mutate_bmp(random: Random, content: bytes) -> bytes:
    """A BMP whose header fields were changed."""
    data = bytearray(content)
    for _ in range(random.randint(1, 2)):
        kind, at = random.choice((("<I", 2), ("<I", 10), ("<I", 14), ("<i", 18), ("<i", 22), ("<H", 26), ("<H", 28),
                                  ("<I", 30), ("<I", 34), ("<I", 46)))  # fmt: skip
        edges = (*EDGES, -1, -(2**31), 4, 12, 24, 40, 64, 108, 124, 5000, 20000)
        value = random.choice(edges)
        size = 8 * struct.calcsize(kind)
        value = max(-(2**31), min(value, 2**31 - 1)) if kind == "<i" else value % 2**size
        struct.pack_into(kind, data, at, value)
    return bytes(data)


_TYPE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 284, 296, 305, 317, 320, 322, 323, 324,
         325, 330, 338, 339, 347, 530, 700, 33628, 34412, 34665, 50838, 50839, 51123)  # fmt: skip


def mutate_tiff(random: Random, content: bytes) -> bytes:
    """A classic or big TIFF with changed tags, types, counts, values or offsets of directories."""
    data = bytearray(content)
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    directories = _directories(data, order, big=big)
    if not directories:
        return mutate_octets(random, content)
    for _ in range(random.randint(1, 3)):
        entries, following = random.choice(directories)
        if random.random() < 0.1 or not entries:
            starts = [place[0][0] for place in directories if place[0]]
            target = random.choice((*starts, 0, 8, len(data) - 4, 2**31)) - (8 if big else 2)
            struct.pack_into(order + ("Q" if big else "I"), data, following, max(0, target))
            continue
        _change_entry(random, data, random.choice(entries), order, big=big)
    return bytes(data)


def _change_entry(random: Random, data: bytearray, at: int, order: str, *, big: bool) -> None:
    word, count_at, value_at = ("Q", 4, 12) if big else ("I", 4, 8)
    tag, kind = struct.unpack_from(order + "HH", data, at)
    choice = random.randrange(6)
    if choice == 0:
        struct.pack_into(order + "H", data, at, random.choice(_TAGS))
    elif choice == 1:
        struct.pack_into(order + "H", data, at + 2, random.choice((*_TYPE_BYTES, 0, 14, 99)))
    elif choice == 2:
        struct.pack_into(order + word, data, at + count_at, random.choice(EDGES))
    elif kind == 3 and struct.unpack_from(order + word, data, at + count_at)[0] == 1:
        values = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 1024, 32773, 32946, 34712, 50000, 65535)
        struct.pack_into(order + "H", data, at + value_at, random.choice(values))
    else:
        values = (*EDGES, 13, 5000, 20000, 46340, 100000, len(data), len(data) - 1, tag)
        struct.pack_into(order + word, data, at + value_at, random.choice(values))


def _directories(data: bytes | bytearray, order: str, *, big: bool) -> list[tuple[list[int], int]]:
    """Offsets of the entries, and of the offset of the next directory, for each directory of the chain."""
    word, short, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    found: list[tuple[list[int], int]] = []
    try:
        at = struct.unpack_from(order + word, data, 8 if big else 4)[0]
        while at and len(found) < 64:
            count = struct.unpack_from(order + short, data, at)[0]
            first = at + struct.calcsize(short)
            entries = [first + size * number for number in range(count)]
            following = first + size * count
            at = struct.unpack_from(order + word, data, following)[0]
            found.append((entries, following))
    except struct.error:
        pass
    return found
