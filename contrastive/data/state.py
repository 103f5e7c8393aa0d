"""How far a stream has been read: a few numbers, the same on all ranks, good for any other layout."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from contrastive.errors import DataError

# What decides the order, and what to do when it is another one.
ORDER = {
    "fingerprint": "the shards hold other samples",
    "seed": "train.seed is another",
    "lanes": "data.lanes is another",
    "window": "data.window is another",
    "replacement": "data.replacement is another",
    "weights": "the weights of data.sources are others",
}


@dataclass(frozen=True)
class StreamState:
    """`consumed` counts the positions delivered to training steps; the rest says of which order they are positions."""

    consumed: int
    fingerprint: str
    seed: int
    lanes: tuple[int, ...] = (1,)  # of each source, as the next two
    window: tuple[int | None, ...] = (None,)
    weights: tuple[str, ...] = ("1.0",)
    replacement: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StreamState":
        """Return the state in a JSON object.

        Raises:
            DataError: it is none, a field is missing, or `consumed` is no count.
        """
        try:
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            state = cls(**fields)
        except (TypeError, AttributeError) as error:
            raise DataError(f"the state of the data stream cannot be read: {error}") from error
        if not isinstance(state.consumed, int) or state.consumed < 0:
            raise DataError(f"the state of the data stream: consumed is {state.consumed!r}, not a count of samples")
        return state

    def resumed_from(self, saved: "StreamState", on_change: Literal["refuse", "restart"] = "refuse") -> "StreamState":
        """Return the state to go on with when this run's data (`self`, nothing consumed) meet a `saved` state.

        World size, workers, accumulation and batch size are no part of a state: they may all be others.
        `restart` begins a new pass over changed data.

        Raises:
            DataError: the order is another one, so that samples would be lost or repeated.
        """
        changes = [f"{why} ({_short(getattr(saved, name))} then, {_short(getattr(self, name))} now)"
                   for name, why in ORDER.items() if getattr(saved, name) != getattr(self, name)]  # fmt: skip
        if not changes:
            return saved
        if on_change == "restart":
            return self
        choice = "put back what changed to continue at the next sample, or begin a pass over the data as they are now"
        raise DataError(f"the data of the saved run cannot be continued: {'; '.join(changes)}; {choice}")


def _short(value: Any) -> str:
    return value[:8] if isinstance(value, str) else str(value)
