"""MurmurHash3 (x64, 128 bits), of which LAION's ``hash`` column is the first half; by Austin Appleby, public domain."""

_MASK = 2**64 - 1
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def laion_hash(url: str, text: str) -> int:
    """Return the value of LAION's ``hash`` column: the first 64 bits of the hash of URL and text together, signed."""
    first, _ = murmur3_x64_128((url + text).encode())
    return first - 2**64 if first >= 2**63 else first


def murmur3_x64_128(data: bytes, seed: int = 0) -> tuple[int, int]:
    """Return the two halves of the 128-bit hash, unsigned.

    Args:
        data: what to hash.
        seed: 0 to 2**32 - 1.
    """
    h1 = h2 = seed
    whole = len(data) - len(data) % 16
    for start in range(0, whole, 16):
        h1 ^= _mix_first(int.from_bytes(data[start : start + 8], "little"))
        h1 = (_rotate(h1, 27) + h2) * 5 + 0x52DCE729 & _MASK
        h2 ^= _mix_second(int.from_bytes(data[start + 8 : start + 16], "little"))
        h2 = (_rotate(h2, 31) + h1) * 5 + 0x38495AB5 & _MASK
    h1 ^= _mix_first(int.from_bytes(data[whole : whole + 8], "little")) ^ len(data)
    h2 ^= _mix_second(int.from_bytes(data[whole + 8 :], "little")) ^ len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _avalanche(h1), _avalanche(h2)
    h1 = (h1 + h2) & _MASK
    return h1, (h2 + h1) & _MASK


def _mix_first(word: int) -> int:
    return _rotate(word * _C1 & _MASK, 31) * _C2 & _MASK


def _mix_second(word: int) -> int:
    return _rotate(word * _C2 & _MASK, 33) * _C1 & _MASK


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _avalanche(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
