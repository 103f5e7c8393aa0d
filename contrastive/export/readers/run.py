"""Read an export in a process of its own, which knows the target's library alone, and write down what it computes.

    python -P run.py READER.py FOLDER PROBE [FOLDER PROBE …]

READER.py defines `Reader(folder)` with some of these, each on all of the probe at once:
    embed_image(pixels: float32 [N, 3, H, W]) -> [N, D]      features, normalised or not
    embed_text(ids: int64 [M, L]) -> [M, D]
    pixels(images: list of RGB PIL images) -> float32 [N, 3, H, W]     the export's own preprocessing
    ids(texts: list of str) -> int64 [M, L]                            its own tokenizer
    module(name) -> torch.nn.Module                                    one of its layers, by name
    layers(names, pixels, ids) -> {name: array}                        where layers are no torch modules
    numbers() -> {"logit_scale": float, "logit_bias": float}           what else it holds
    extra() -> {name: array}                                           what more there is to say
PROBE is a folder with pixels.npy, ids.npy, images/*.png and request.json: {"texts": […], "layers": {tower: [names]},
"timed": [batch sizes]}; what the export in FOLDER makes of it is left there in out.npz, or the error in error.txt.
"""

import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LEAST_TIMED, MOST_TIMED, TIMED_SECONDS = 3, 20, 2.0
KNOWN = ("contrastive", "onnxruntime", "open_clip", "sentence_transformers", "timm", "torch", "torchao", "transformers")


def main(script: str, *pairs: str) -> None:
    """Write every array that the reader gives, under the names of the docstring above."""
    module = _load(Path(script))
    for folder, probe in zip(pairs[::2], pairs[1::2], strict=True):
        try:
            np.savez(Path(probe) / "out.npz", **_embedded(module.Reader(folder), Path(probe)))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is said, and the next one is read)
            said = (str(error).strip() or repr(error)).splitlines()[0]
            (Path(probe) / "error.txt").write_text(f"{type(error).__name__}: {said}", encoding="utf-8")


def _embedded(reader: Any, place: Path) -> dict[str, Any]:
    request = json.loads((place / "request.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    given = {tower: np.load(place / name) for tower, name in (("image", "pixels.npy"), ("text", "ids.npy"))}
    for tower, values in given.items():
        names = request["layers"].get(tower, [])
        embed = getattr(reader, f"embed_{tower}", None)
        if embed is not None:
            found[f"{tower}_features"] = _watched(reader, embed, values, names, found)
            seconds = [median_seconds(embed, values, size) for size in request.get("timed", [])]
            found[f"{tower}_seconds"] = np.array(seconds, np.float64)
    if hasattr(reader, "layers"):
        found.update(
            {f"layer:{k}": v for k, v in reader.layers(request["layers"], given["image"], given["text"]).items()}
        )
    if hasattr(reader, "pixels"):
        images = [Image.open(path).convert("RGB") for path in sorted((place / "images").glob("*.png"))]
        found["pixels"] = reader.pixels(images)
    if hasattr(reader, "ids"):
        found["ids"] = reader.ids(request["texts"])
    for name, value in (reader.numbers() if hasattr(reader, "numbers") else {}).items():
        found[name] = np.asarray(value, np.float64).reshape(-1)
    found.update(reader.extra() if hasattr(reader, "extra") else {})
    versions = {name: str(getattr(sys.modules[name], "__version__", "")) for name in KNOWN if name in sys.modules}
    found["modules"] = np.array(json.dumps(versions))
    return found


def median_seconds(embed: Any, values: Any, size: int) -> float:
    """Return what `embed` takes for a batch of `size` of the values, over and over."""
    batch = np.resize(values, (size, *values.shape[1:]))
    taken: list[float] = []
    end = time.perf_counter() + TIMED_SECONDS
    while len(taken) <= LEAST_TIMED or (time.perf_counter() < end and len(taken) < MOST_TIMED):
        start = time.perf_counter()
        embed(batch)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])  # the first one warms up


def _watched(reader: Any, embed: Any, values: Any, names: list[str], found: dict[str, Any]) -> Any:
    """Return what `embed` gives, and keep what the modules called `names` gave on the way."""
    if not names or not hasattr(reader, "module"):
        return embed(values)

    def keep(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            tensor = output
            while not hasattr(tensor, "detach"):
                tensor = tensor[0] if isinstance(tensor, (tuple, list)) else next(iter(tensor.values()))
            found.setdefault(f"layer:{name}", tensor.detach().float().numpy())

        return hook

    hooks = [reader.module(name).register_forward_hook(keep(name)) for name in names]
    try:
        return embed(values)
    finally:
        for hook in hooks:
            hook.remove()


def _load(script: Path) -> Any:
    spec = importlib.util.spec_from_file_location("reader", script)
    if spec is None or spec.loader is None:
        raise ImportError(f"{script}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
