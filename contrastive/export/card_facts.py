"""What a model card is written from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contrastive.export.parity import Claim, Parity


@dataclass(frozen=True)
class Evaluation:
    """What was measured of the model.

    `rows`: as results.json has them (dataset, task, n, metrics of value, ci95 and chance, error), with the metrics that
    the card is to show and no others. `created`: when, as an ISO date. `languages`: codes by dataset, where known.
    """

    rows: Sequence[Mapping[str, Any]]
    created: str
    languages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """What became of one quantity in an export that is not exact, such as its size in MB or its accuracy."""

    what: str
    before: float
    after: float
    unit: str = ""


@dataclass(frozen=True)
class CardFacts:
    """All that a card says, apart from what holds for every model.

    `name`: the title: ORG/NAME on the hub, or the folder; the loading lines name its last part. `format`: its name in
    the table. `config`: of the run that trained the model, resolved, as plain values; None where the model is not one
    of our runs. `environment`: what that run wrote of itself. `licence`: an identifier of the hub (mit, apache-2.0,
    other, …), None: none was given.
    """

    name: str
    format: str
    claim: Claim
    parity: Parity
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    evaluation: Evaluation | None = None
    changes: Sequence[Change] = ()
    licence: str | None = None
