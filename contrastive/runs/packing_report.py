"""What a packing leaves for people: report.json, a page with pictures, and a table."""

from collections.abc import Iterable
from typing import Any

from PIL import Image

from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.modalities.decode import BadImageError, decode
from contrastive.recipes.packing.finishing import REJECTIONS, TRAINING
from contrastive.recipes.packing.pack import Packed, Shown
from contrastive.recipes.packing.space import size
from contrastive.recipes.samples import Sample
from contrastive.recipes.step import REPORT, Example, Step, chosen, example
from contrastive.runs import steps
from contrastive.runs.opening import configuration, console, open_shards


def report(packed: Packed, title: str) -> None:
    """Write the report of a packing into its folder, unless one is there, and print its table."""
    if not packed.is_new:
        console().print(f"{packed.out} is packed already: nothing to do", soft_wrap=True, highlight=False)
    if not packed.is_new and (packed.out / REPORT).exists():
        return
    steps.conclude(
        Step(
            title=f"pack: {title}",
            command=steps.command_line(),
            samples=packed.rows,
            kept=packed.rows - sum(packed.rejected.values()),
            dropped=packed.rejected,
            figures=_shown_figures(packed),
            examples={"packed": _kept(packed), **_rejected(packed.examples)},
            notes=list(_notes(packed)),
            provenance={"fingerprint": packed.fingerprint},
        ),
        packed.out,
    )


def figures(packed: Packed) -> dict[str, Any]:
    """Return what was packed, as JSON holds it."""
    splits = {name: {"samples": one["samples"], "shards": len(one["shards"])} for name, one in packed.splits.items()}
    return {
        "out": str(packed.out),
        "samples": packed.samples,
        "shards": packed.shard_count,
        "bytes": packed.bytes,
        "rows": packed.rows,
        "merged": packed.merged,
        "rejected": dict(packed.rejected),
        "splits": splits,
        "kinds": dict(packed.kinds),
        "seconds": packed.seconds,
        "resumed": packed.resumed,
        "is_new": packed.is_new,
    }


def _shown_figures(packed: Packed) -> dict[str, Any]:
    found: dict[str, Any] = {"samples packed": packed.samples}
    if packed.merged:
        found["rows that gave a sample another caption"] = packed.merged
    found |= {"shards": packed.shard_count, "size": size(packed.bytes)}
    if len(packed.splits) > 1 or "" not in packed.splits:
        found |= {f"split {name}": f"{one['samples']:,}" for name, one in packed.splits.items()}
    done = packed.samples - packed.resumed
    if packed.seconds and done > 0:
        found["images/s"] = round(done / packed.seconds)
    return found


def _notes(packed: Packed) -> Iterable[str]:
    first: dict[str, str] = {}
    for one in packed.examples:
        first.setdefault(one.rejected.reason, one.rejected.message)
    yield from (f"{reason}, e.g. {message}" for reason, message in first.items())
    if packed.rejected:
        yield f"every row that was rejected: {packed.out / REJECTIONS}"
    if packed.has_changed:
        yield "The source changed while it was packed: rows are as they were listed, images as they were when read."
    if packed.has_several_captions:
        yield "Some samples have several captions: data.caption_key=json.captions draws one of them, txt is the first."
    odd = {kind: count for kind, count in packed.kinds.items() if kind not in TRAINING.image}
    if odd:
        said = ", ".join(f"{count:,} {kind}" for kind, count in odd.items())
        key = ";".join((*TRAINING.image, *odd))
        yield f"Training passes over {said}: name them (data.image_key='{key}'), or encode them anew (--format jpg)."


def _kept(packed: Packed) -> list[Example]:
    """Return some samples as they are in the tars; none where training's own keys find none."""
    folders = [str(packed.out / name) if name else str(packed.out) for name in packed.splits]
    try:
        pool = open_shards(configuration([], [], folders))
    except DataError:
        return []
    reader = Reader(pool, Storage(), "substitute")
    found = []
    for number in chosen(range(len(pool))):
        sample = Sample(reader, number)
        try:
            found.append(example(sample.key, sample.captions[0], sample.image))
        except BadSampleError as error:
            found.append(example(sample.key, "", note=error.message))
    return found


def _rejected(shown: Iterable[Shown]) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for one in shown:
        picture = None
        if one.image:
            try:
                picture = Image.fromarray(decode(one.image))
            except BadImageError:
                picture = None  # that is why it was rejected
        row = example(one.rejected.key, one.caption, picture, one.rejected.message)
        found.setdefault(one.rejected.reason, []).append(row)
    return found
