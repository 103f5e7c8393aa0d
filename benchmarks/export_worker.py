"""One export, loaded in a process of its own as a user loads it: with the target's library alone.

    python -P benchmarks/export_worker.py LOADER FOLDER THREADS PIXELS.npy IDS.npy

Answers a line of JSON for every line of JSON that it is told: {"do": "time", "tower": …, "batch": …, "calls": …} with
the seconds and processor seconds of each call, {"do": "embed", "tower": …, "out": FILE} with the features of all inputs
in FILE. The first line says that it is loaded, and how long that took.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Any], Any]  # of what `inputs` returns, to what `features` turns into an array
WARM = 2  # calls of a size that are not timed, the first time


class Eager:
    """Our own model in PyTorch: what the others are measured against."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch

        from contrastive.models.checkpoint import load

        torch.set_num_threads(threads)
        self.torch, self.model = torch, load(folder).model

    def towers(self) -> dict[str, Embed]:
        """Return what embeds, by tower."""
        return {"image": self.model.encode_image, "text": self.model.encode_text}

    def inputs(self, values: NDArray[Any]) -> Any:
        """Return a batch as the library takes it."""
        return self.torch.from_numpy(values)

    def run(self, embed: Embed, batch: Any) -> Any:
        """Return the features of a batch; no gradients are kept."""
        with self.torch.inference_mode():
            return embed(batch)


class OpenClip(Eager):
    """open_clip's folder."""

    def __init__(self, folder: str, threads: int) -> None:
        import open_clip
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", require_pretrained=True)
        self.model.eval()


class Transformers(Eager):
    """A folder of transformers; its linear layers may be those of torchao."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()

    def towers(self) -> dict[str, Embed]:
        """Return what embeds; since 5.0 the features lie inside an output."""
        model = self.model
        return {
            "image": lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
            "text": lambda ids: model.get_text_features(input_ids=ids).pooler_output,
        }


class Timm(Eager):
    """timm's folder, of the image tower alone."""

    def __init__(self, folder: str, threads: int) -> None:
        import timm
        import torch

        torch.set_num_threads(threads)
        self.torch, self.model = torch, timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def towers(self) -> dict[str, Embed]:
        """Return the one tower."""
        return {"image": self.model}


class TorchExport(Eager):
    """Programs of torch.export."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.programs = {name: torch.export.load(Path(folder) / f"{name}.pt2").module() for name in ("image", "text")}

    def towers(self) -> dict[str, Embed]:
        """Return both programs."""
        return dict(self.programs)


class Onnx:
    """ONNX files, without torch."""

    def __init__(self, folder: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would spin in the others' turns
        given: dict[str, Any] = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
        self.sessions = {
            name: onnxruntime.InferenceSession(str(Path(folder) / f"{name}.onnx"), **given)
            for name in ("image", "text")
        }

    def towers(self) -> dict[str, Embed]:
        """Return both sessions."""

        def embed(session: Any) -> Embed:
            (given,) = session.get_inputs()
            return lambda batch: session.run(None, {given.name: batch})[0]

        return {name: embed(session) for name, session in self.sessions.items()}

    def inputs(self, values: NDArray[Any]) -> Any:
        """Return a batch as it is."""
        return values

    def run(self, embed: Embed, batch: Any) -> Any:
        """Return the features of a batch."""
        return embed(batch)


LOADERS: dict[str, Any] = {
    "eager": Eager,
    "onnx": Onnx,
    "open_clip": OpenClip,
    "timm": Timm,
    "torch_export": TorchExport,
    "transformers": Transformers,
}


def main(loader: str, folder: str, threads: str, pixels: str, ids: str) -> None:
    """Answer until there is nothing more to answer."""
    start = time.perf_counter()
    export = LOADERS[loader](folder, int(threads))
    towers, values = export.towers(), {"image": np.load(pixels), "text": np.load(ids)}
    warm: set[tuple[str, int]] = set()
    _say({"loaded": time.perf_counter() - start, "towers": list(towers)})
    for line in sys.stdin:
        told = json.loads(line)
        tower = told["tower"]
        if told["do"] == "embed":
            np.save(told["out"], np.asarray(export.run(towers[tower], export.inputs(values[tower]))))
            _say({})
            continue
        batch = export.inputs(values[tower][: told["batch"]])
        first = (tower, told["batch"]) not in warm
        warm.add((tower, told["batch"]))
        for _ in range(WARM if first else 1):  # what the last turn of another size left in the caches
            export.run(towers[tower], batch)
        _say(_timed(lambda: export.run(towers[tower], batch), told["calls"]))  # noqa: B023  (called at once)


def _timed(work: Callable[[], Any], calls: int) -> dict[str, list[float]]:
    seconds, cpu = [], []
    for _ in range(calls):
        clock, processor = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - clock)
        cpu.append(time.process_time() - processor)
    return {"seconds": seconds, "cpu_seconds": cpu}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
