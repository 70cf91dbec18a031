"""Bodies that a careful downloader must survive: a decompression bomb, a page in place of a picture, endless bytes."""

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache

HTML_PAGE = (
    b"<!doctype html><html><head><title>Image removed</title></head>"
    b"<body><h1>This image is no longer available</h1><p>Return to the <a href='/'>home page</a>.</p></body></html>"
)
"""What some hosts send, as ``image/jpeg``, in place of a picture that is gone."""

_BLOCK_BYTES = 64 * 1024
_PACKED_BYTES = 2**20


@lru_cache(maxsize=4)
def decompression_bomb(side_px: int) -> bytes:
    """Return a small valid PNG, black, of ``side_px`` x ``side_px`` pixels at one bit each.

    Thirty thousand pixels a side take about 110 kB here, and 0.9 to 2.7 GB once a decoder turns them into bytes.
    """
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    packed = _packed_zeros(side_px * (1 + (side_px + 7) // 8))
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def endless_blocks(start: bytes, *, num_bytes: int) -> Iterator[bytes]:
    """Yield ``start`` and then zeros until ``num_bytes`` have gone out, in blocks of at most 64 KiB."""
    yield start[:num_bytes]
    left = num_bytes - len(start)
    zeros = bytes(_BLOCK_BYTES)
    while left > 0:
        yield zeros[:left]
        left -= len(zeros)


def _packed_zeros(num_bytes: int) -> bytes:
    """Return the zlib stream (RFC 1950) of ``num_bytes`` zeros without packing them all.

    A full flush makes a block that needs nothing before it, so one packed mebibyte can be repeated.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_PACKED_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = rest.compress(bytes(num_bytes % _PACKED_BYTES)) + rest.flush()
    # Adler-32 of n zeros: the sum stays 1, the sum of sums is n.
    checksum = struct.pack(">HH", num_bytes % 65_521, 1)
    return b"\x78\xda" + block * (num_bytes // _PACKED_BYTES) + tail + checksum


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
