"""The order of training in plain integers, one position at a time, written from its description."""

import zlib
from fractions import Fraction


def hashed(*parts):
    state = 0
    for part in parts:
        state = ((state ^ (zlib.crc32(part.encode()) if isinstance(part, str) else part)) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state


def permuted_by_hand(x, size, keys):
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        left, right = divmod(x, 2**half)
        for turn in range(6):
            left, right = right, left ^ hashed(*keys, turn, right) % 2**half
        x = left * 2**half + right
        if x < size:
            return x


def by_hand(sources, seed, position):
    """Return (number, occurrence, source, lane)."""
    held = [max(1, round(Fraction(str(source.weight)) * source.samples)) for source in sources]
    epoch, slot = divmod(position, sum(held))
    _, s, j = sorted(((j + 0.5) / held[s], s, j) for s in range(len(held)) for j in range(held[s]))[slot]
    source, count = sources[s], sources[s].samples
    walk, offset = divmod(epoch * held[s] + j, count)
    lanes, window = min(source.lanes, count), min(source.window or count, count)
    start = sum(other.samples for other in sources[:s])
    lane = sum(min(other.lanes, other.samples) for other in sources[:s]) + offset % lanes
    if lanes == 1 and window == count:
        keys = ("order", seed, walk) if len(sources) == 1 else ("order", seed, s, 0, 0, walk)
        return start + permuted_by_hand(offset, count, keys), walk, s, lane
    shards = sorted(range(len(source.counts)), key=lambda shard: (hashed("shards", seed, s, walk, shard), shard))
    laid = [sum(source.counts[:shard]) + row for shard in shards for row in range(source.counts[shard])]
    lane_samples = deal(laid, lanes)[offset % lanes]
    blocks = cut(lane_samples, window, hashed("phase", seed, s, walk, offset % lanes) % window, count // lanes)
    place = offset // lanes
    for number, block in blocks:
        if place < len(block):
            keys = ("order", seed, s, offset % lanes, number, walk)
            return start + block[permuted_by_hand(place, len(block), keys)], walk, s, lane
        place -= len(block)
    raise AssertionError


def deal(laid, lanes):
    """Cut a list into parts of which the first ones may be longer by one."""
    parts, rest = [], list(laid)
    for lane in range(lanes):
        size = len(laid) // lanes + (lane < len(laid) % lanes)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


def cut(samples, window, phase, shortest_lane):
    """Cut a lane into numbered blocks, of which the first lacks `phase` samples."""
    phase = phase if window < shortest_lane else 0
    blocks, number = [], 0
    while samples:
        size = window - phase if number == 0 else window
        blocks.append((number, samples[:size]))
        samples, number = samples[size:], number + 1
    return blocks
