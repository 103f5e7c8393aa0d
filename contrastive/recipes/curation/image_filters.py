"""Filters of an image's size, which read no more than its header."""

from collections.abc import Mapping

from contrastive.errors import ConfigError
from contrastive.recipes.curation.filtering import Judged
from contrastive.recipes.samples import Sample


class Resolution:
    """Keeps images whose shorter side has at least `min_side` pixels, and whose longer side at most `max_side`."""

    def __init__(self, min_side: int | None = None, max_side: int | None = None) -> None:
        if min_side is None and max_side is None:
            raise ConfigError("resolution: set min_side or max_side; both are unset")
        for name, value in (("min_side", min_side), ("max_side", max_side)):
            if value is not None and value < 1:
                raise ConfigError(f"resolution.{name}: {value} must be at least 1 pixel")
        if min_side is not None and max_side is not None and min_side > max_side:
            raise ConfigError(f"resolution: min_side {min_side} is more than max_side {max_side}: no image passes")
        self.min_side, self.max_side = min_side, max_side

    @property
    def scores(self) -> Mapping[str, float | None]:
        """Pixels of the shorter side, and of the longer one where it is judged."""
        longer = {} if self.max_side is None else {"longer_side": self.max_side}
        return {"side": self.min_side, **longer}

    def judge(self, sample: Sample) -> Judged:
        """Return whether the image has enough pixels, and not too many."""
        shorter, longer = sorted(sample.size)
        scores: dict[str, float] = {"side": shorter}
        reason = "image: too small" if self.min_side is not None and shorter < self.min_side else ""
        if self.max_side is not None:
            scores["longer_side"] = longer
            reason = reason or ("image: too large" if longer > self.max_side else "")
        return Judged(reason, scores)


class Aspect:
    """Keeps images whose longer side is at most `max` times the shorter one."""

    def __init__(self, max: float) -> None:
        if max < 1:
            raise ConfigError(f"aspect.max: {max:g} must be at least 1: it is the longer side by the shorter")
        self.max = max

    @property
    def scores(self) -> Mapping[str, float | None]:
        """The longer side by the shorter."""
        return {"aspect": self.max}

    def judge(self, sample: Sample) -> Judged:
        """Return whether the image is not too narrow."""
        shorter, longer = sorted(sample.size)
        return Judged("image: too narrow" if longer > self.max * shorter else "", {"aspect": longer / max(1, shorter)})
