"""What a deduplication is asked to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from contrastive.errors import ConfigError
from contrastive.recipes.curation.exact import Of
from contrastive.recipes.curation.perceptual import Rule, require_imagehash
from contrastive.recipes.curation.signatures import Wanted

Method = Literal["exact", "perceptual", "embedding", "both"]


class Request(NamedTuple):
    """What is asked for; `threshold` is of the cosine, `rule` of how alike images must look."""

    out: Path
    method: Method = "perceptual"
    of: Of = "image"
    rule: Rule = Rule()
    threshold: float = 0.95
    features: Path | None = None
    keep: Literal["first", "largest", "score"] = "first"
    score: str | None = None  # FILE:COLUMN
    against: Sequence[str] = ()
    processes: int | None = None
    engine: str = "local"

    @property
    def looks(self) -> bool:
        """Whether images are compared by how they look."""
        return self.method in ("perceptual", "both")

    @property
    def embeds(self) -> bool:
        """Whether features are compared."""
        return self.method in ("embedding", "both")

    @property
    def wanted(self) -> Wanted:
        """What of each sample must be known."""
        return Wanted(self.of, pixels=self.method == "exact" and bool(self.against), looks=self.looks)

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: it does.
            DataError: what it needs is not installed.
        """
        if self.embeds and self.features is None:
            rule = "make them with contrastive data embed SHARDS --model MODEL --out DIR, and give --features DIR"
            raise ConfigError(f"--method {self.method} compares features; {rule}")
        if not self.embeds and self.features is not None:
            raise ConfigError(f"--features is for --method embedding or both, not {self.method}; leave it out")
        if self.of != "image" and self.method != "exact":
            raise ConfigError(f"--of {self.of} is for --method exact, not {self.method}; leave it out")
        if self.of == "caption" and self.keep == "largest":
            raise ConfigError(
                "--keep largest looks at images, and --of caption does not read them; keep first or score"
            )
        if (self.keep == "score") != (self.score is not None):
            raise ConfigError("--keep score and --score FILE:COLUMN belong together; give both or neither")
        if self.looks:
            require_imagehash()
