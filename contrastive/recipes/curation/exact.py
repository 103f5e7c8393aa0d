"""Equal things by 128 bits of BLAKE2b: encoded images, pixels, and captions.

Among 10^10 samples two different ones are equal by chance with a probability of 10^-19, and nobody can forge a copy.
"""

import hashlib
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from contrastive.modalities.decode import Pixels

Of: TypeAlias = Literal["image", "pixels", "pair", "caption"]
Digest: TypeAlias = tuple[int, int]
Digests: TypeAlias = NDArray[np.uint64]  # [N, 2]; zeros where there is none
OF: tuple[Of, ...] = ("image", "pixels", "pair", "caption")


def digest(parts: Iterable[bytes]) -> Digest:
    """Return the digest of a sequence of byte strings; how they are cut counts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    value = state.digest()
    return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")


def of_pixels(pixels: Pixels) -> Digest:
    """Return the digest of decoded pixels, so that a PNG equals the JPEG that it was made of."""
    return digest((repr(pixels.shape).encode(), np.ascontiguousarray(pixels).tobytes()))


def of_captions(captions: Iterable[str]) -> tuple[bytes, ...]:
    """Return a set of captions as bytes that do not depend on their order."""
    return tuple(sorted({caption.encode(errors="surrogatepass") for caption in captions}))


def firsts(digests: Digests, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row the number of the row of lowest rank that has an equal digest, int64 [N].

    A row without a digest equals only itself.
    """
    known = digests.any(1)
    found = np.arange(len(digests))
    numbers = np.flatnonzero(known)
    order = numbers[np.lexsort((rank[numbers], digests[numbers, 1], digests[numbers, 0]))]
    begins = np.ones(len(order), bool)
    begins[1:] = (digests[order[1:]] != digests[order[:-1]]).any(1)
    if len(order):
        found[order] = order[begins][np.cumsum(begins) - 1]
    return found
