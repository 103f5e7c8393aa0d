"""The proof of an export: what a fresh process makes of it, beside what the model made of the same inputs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from contrastive.errors import ModelError
from contrastive.export.exporter import Exporter, Tower, Written
from contrastive.export.probe import MENDED, Probe
from contrastive.export.readers.run import median_seconds
from contrastive.export.source import Source

READERS = Path(__file__).parent / "readers"
TIMED = [1, 32]  # batch sizes
READ_SECONDS = 1800.0  # a large model on a slow disk; a reader that hangs is ended
LAYER_DIFFERS = {"exact": 1e-5, "rounded": 0.1}  # relative: float32 of deep towers stays below, int8 mostly
PROCESS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Agreement:
    """How far the unit vectors of a tower are apart, over all inputs of the probe."""

    inputs: int
    max_distance: float
    max_difference: float
    min_cosine: float


@dataclass(frozen=True)
class Parity:
    """What export.json says of the proof.

    `pixels`: the largest difference of a preprocessed value, None where the format has no preprocessing; `ids_equal`:
    the share of plain captions whose token ids agree, but for what fills them up, `ids_equal_mended` that of captions
    that CLIP's tokenizer mends before it reads them; `milliseconds`: of a format that is not exact, what a batch takes
    ours, eager PyTorch here, and the export in its process, by tower and batch size.
    """

    towers: Mapping[Tower, Agreement]
    pixels: float | None = None
    ids_equal: float | None = None
    ids_equal_mended: float | None = None
    milliseconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    read_with: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """An export in `folder` that is to be proved."""

    source: Source
    exporter: Exporter
    written: Written
    folder: Path
    probe: Probe


def verify(claim: Claim) -> Parity:
    """Return how well an export agrees with its source, read in a fresh process.

    Raises:
        ModelError: it cannot be read, or differs by more than the format's tolerance; the tower and the first layer
            that differ are named.
    """
    (found,) = verify_all([claim])
    if isinstance(found, ModelError):
        raise found
    return found


def verify_all(claims: Sequence[Claim]) -> list[Parity | ModelError]:
    """Return what `verify` returns or raises for each export; those of one reader are read in one process."""
    with TemporaryDirectory() as name:
        places = [Path(name) / str(number) for number in range(len(claims))]
        for claim, place in zip(claims, places, strict=True):
            _write_probe(place, claim)
        for reader in {claim.exporter.reader for claim in claims}:
            own = [(c.folder, place) for c, place in zip(claims, places, strict=True) if c.exporter.reader == reader]
            _read(reader, own)
        return [_judged(claim, place) for claim, place in zip(claims, places, strict=True)]


def _judged(claim: Claim, place: Path) -> Parity | ModelError:
    try:
        return _compared(claim, place)
    except ModelError as error:
        return error


def _compared(claim: Claim, place: Path) -> Parity:
    found, exporter = _content(place), claim.exporter
    pixels, ids = torch.from_numpy(np.load(place / "pixels.npy")), torch.from_numpy(np.load(place / "ids.npy"))
    ours = claim.source.embed(pixels, ids)
    towers = {tower: _agreement(ours[tower], found, tower) for tower in exporter.towers}
    for tower, agreement in towers.items():
        if not _holds(agreement, exporter):
            layer = _first_difference(claim, place, tower)
            raise ModelError(f"the {tower} tower differs: {_said(agreement, exporter)}; {layer}")
    _check_numbers(claim.source, found)
    return Parity(
        towers=towers,
        pixels=_pixel_difference(pixels, found),
        **_token_shares(ids, found, len(claim.probe.texts)),
        milliseconds=_milliseconds(claim, place, found),
        extra={name.removeprefix("extra:"): found[name].tolist() for name in found if name.startswith("extra:")},
        read_with=json.loads(str(found["modules"])),
    )


def _write_probe(place: Path, claim: Claim) -> None:
    built, probe, texts = claim.source.built, claim.probe, [*claim.probe.texts, *MENDED]
    transform = built.preprocess.evaluation_transform()
    (place / "images").mkdir(parents=True)
    np.save(place / "pixels.npy", torch.stack([transform(image) for image in probe.images]).numpy())
    np.save(place / "ids.npy", built.tokenizer(texts).numpy())
    for number, image in enumerate(probe.images):
        image.save(place / "images" / f"{number:05d}.png")
    request = {"texts": texts, "layers": {}, "timed": TIMED if claim.exporter.tolerance.distance is None else []}
    (place / "request.json").write_text(json.dumps(request), encoding="utf-8")


def _read(reader: str, exports: Sequence[tuple[Path, Path]]) -> None:
    """Let a fresh process read exports: (folder, place of the probe and of what comes of it)."""
    # -P: neither the folder of the readers, whose names are those of libraries, nor this one is on the path.
    script = [sys.executable, "-P", str(READERS / "run.py"), str(READERS / f"{reader}.py")]
    paths = [str(path.resolve()) for pair in exports for path in pair]
    try:
        done = subprocess.run(  # noqa: S603  (our own files)
            [*script, *paths],
            check=False,
            env={**os.environ, **PROCESS},
            cwd=exports[0][1],
            capture_output=True,
            text=True,
            timeout=READ_SECONDS * len(exports),
        )
        said = (
            "" if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        )
    except subprocess.TimeoutExpired:
        said = f"no answer in {READ_SECONDS:.0f} s"
    for _, place in exports:
        if said and not (place / "out.npz").is_file() and not (place / "error.txt").is_file():
            (place / "error.txt").write_text(said, encoding="utf-8")


def _content(place: Path) -> Arrays:
    if (place / "error.txt").is_file():
        said = (place / "error.txt").read_text(encoding="utf-8")
        raise ModelError(f"the export could not be read again in a fresh process: {said}")
    with np.load(place / "out.npz", allow_pickle=False) as content:
        return dict(content)


def _agreement(ours: Tensor, found: Arrays, tower: str) -> Agreement:
    theirs = torch.from_numpy(found[f"{tower}_features"]).double()
    expected = ours.double()
    if theirs.shape != expected.shape:
        raise ModelError(f"the {tower} tower gives {list(theirs.shape)} features, ours {list(expected.shape)}")
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    distance, cosine = (theirs - expected).norm(dim=-1), (theirs * expected).sum(-1)
    return Agreement(
        len(expected), distance.max().item(), (theirs - expected).abs().max().item(), cosine.min().item()
    )  # of NaN every one is NaN, and no limit holds


def _holds(agreement: Agreement, exporter: Exporter) -> bool:
    limit = exporter.tolerance
    near = limit.distance is None or agreement.max_distance <= limit.distance
    return near and (limit.cosine is None or agreement.min_cosine >= limit.cosine)


def _said(agreement: Agreement, exporter: Exporter) -> str:
    limit = exporter.tolerance
    if limit.distance is not None:
        return f"unit vectors are {agreement.max_distance:.1e} apart, at most {limit.distance:.0e} is allowed"
    return f"the least cosine is {agreement.min_cosine:.4f}, at least {limit.cosine} is asked for"


def _first_difference(claim: Claim, place: Path, tower: Tower) -> str:
    """Say which of the layers that both models have is the first to differ."""
    pairs = claim.written.layers.get(tower, [])
    if not pairs:
        return "the format shows no layers of its own"
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    request |= {"layers": {tower: [name for _, name in pairs]}, "timed": []}
    (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
    _read(claim.exporter.reader, [(claim.folder, place)])
    theirs = _content(place)
    ours = _outputs(claim.source, [name for name, _ in pairs], place, tower)
    before = "the input"
    for name, other in pairs:
        key = f"layer:{other}"
        if key not in theirs or name not in ours:
            continue
        expected, got = ours[name].double(), torch.from_numpy(theirs[key]).double()
        if expected.shape != got.shape:
            shapes = f"{list(got.shape)}, ours {list(expected.shape)}"
            return f"the first layer that differs is {other} (ours: {name}): {shapes}"
        error = ((got - expected).norm() / expected.norm().clamp(min=1e-12)).item()
        if not error <= LAYER_DIFFERS["rounded" if claim.exporter.tolerance.distance is None else "exact"]:
            return (
                f"the first layer that differs is {other} (ours: {name}), by {error:.1e} of its norm, behind {before}"
            )
        before = other
    return f"every layer up to {before} agrees; what comes behind it differs"


def _outputs(source: Source, names: Sequence[str], place: Path, tower: Tower) -> dict[str, Tensor]:
    """Return what our modules of these names give for the probe."""
    module: nn.Module = source.built.model if source.inner is None else source.inner
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept.setdefault(name, (output[0] if isinstance(output, (tuple, list)) else output).float().clone())

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        given = torch.from_numpy(np.load(place / ("pixels.npy" if tower == "image" else "ids.npy")))
        source.embed(given if tower == "image" else None, given if tower == "text" else None)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _milliseconds(claim: Claim, place: Path, found: Arrays) -> dict[str, tuple[float, float]]:
    """Return what batches take before and after, of a format that is to be faster."""
    if claim.exporter.tolerance.distance is not None:
        return {}
    measured = {}
    for tower, name in (("image", "pixels.npy"), ("text", "ids.npy")):
        if tower not in claim.exporter.towers:
            continue
        values = np.load(place / name)

        def embed(batch: NDArray[Any], tower: str = tower) -> None:
            given = torch.from_numpy(batch)
            claim.source.embed(given if tower == "image" else None, given if tower == "text" else None)

        for size, after in zip(TIMED, found[f"{tower}_seconds"], strict=True):
            before = median_seconds(embed, values, size)
            measured[f"{tower} x {size}"] = (round(1e3 * before, 3), round(1e3 * float(after), 3))
    return measured


def _check_numbers(source: Source, found: Arrays) -> None:
    for name, parameter in source.built.model.logit_parameters().items():
        ours = parameter.detach().double().item()
        if name in found and not abs(found[name].item() - ours) <= 1e-6 * max(1.0, abs(ours)):
            raise ModelError(f"{name} is {found[name].item()!r}, ours {ours!r}")


def _pixel_difference(pixels: Tensor, found: Arrays) -> float | None:
    if "pixels" not in found:
        return None
    if found["pixels"].shape != tuple(pixels.shape):
        raise ModelError(f"its preprocessing gives {list(found['pixels'].shape)} pixels, ours {list(pixels.shape)}")
    return float(np.abs(found["pixels"] - pixels.numpy()).max())


def _token_shares(ids: Tensor, found: Arrays, plain: int) -> dict[str, float | None]:
    """Return the share of rows that agree, of plain captions and of the others."""
    if "ids" not in found:
        return {"ids_equal": None, "ids_equal_mended": None}
    equal = [_same_ids(ours, theirs) for ours, theirs in zip(ids.numpy(), found["ids"], strict=True)]
    return {"ids_equal": float(np.mean(equal[:plain])), "ids_equal_mended": float(np.mean(equal[plain:]))}


def _same_ids(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether two rows agree but for what fills them up: the same id over and over, perhaps another one."""
    length = min(len(ours), len(theirs))
    differ = np.flatnonzero(ours[:length] != theirs[:length])
    if not len(differ):
        return bool(len(set(ours[length:])) <= 1 and len(set(theirs[length:])) <= 1)
    first = differ[0]
    return len(set(ours[first:])) == 1 and len(set(theirs[first:])) == 1
