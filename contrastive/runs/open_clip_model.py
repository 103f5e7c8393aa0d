"""The model of an open_clip command: by name where it can be, else open_clip's own description with what is forced."""

import json
from collections.abc import Iterator
from typing import Any

from contrastive.runs.open_clip_command import Command
from contrastive.runs.open_clip_lines import Line, Remarks

FORCED = {  # where open_clip's create_model writes it in a model's description
    "force_quick_gelu": ("quick_gelu",),
    "force_custom_text": ("custom_text",),
    "force_patch_dropout": ("vision_cfg", "patch_dropout"),
    "force_image_size": ("vision_cfg", "image_size"),
    "force_context_length": ("text_cfg", "context_length"),
    "pretrained_image": ("vision_cfg", "timm_model_pretrained"),
}
FOLDERS = ("local-dir:", "hf-hub:")
PIXELS = {
    "image_mean": "mean",
    "image_std": "std",
    "image_interpolation": "interpolation",
    "image_resize_mode": "resize_mode",
}


def lines(command: Command, notes: Remarks) -> Iterator[Line]:
    """Yield the settings of `model`, and note what cannot be said there."""
    yield from _model(command, notes)
    for name, key in PIXELS.items():
        value = getattr(command.flags, name)
        if value == "random":
            notes.refuse(name, "one interpolation is used, for training and evaluation alike")
        elif value is not None:
            value = list(value) * (3 if len(value) == 1 else 1) if isinstance(value, list) else value
            yield Line(f"model.preprocess.{key}", value, command.said(name))
    if command.flags.siglip and not _resumes(command):
        yield Line("model.init_temperature", 0.1, f"{command.said('siglip')}: logit_scale begins at ln 10")
        yield Line("model.init_logit_bias", -10.0, command.said("siglip"))
    if distils(command):
        flags = command.flags
        teacher = {"name": flags.distill_model.replace("/", "-"), "pretrained": flags.distill_pretrained}
        yield Line("model.teacher", teacher, f"{command.said('distill_model')} {command.said('distill_pretrained')}")
    elif command.flags.distill_model or command.flags.distill_pretrained:
        notes.tell("--distill-model and --distill-pretrained: open_clip distils only where both are given")
    if "coca" in command.flags.model.lower():
        notes.refuse("model", "its captioning loss: there is none, the contrastive one alone is trained")


def distils(command: Command) -> bool:
    """Whether open_clip would learn from a teacher."""
    return command.flags.distill_model is not None and command.flags.distill_pretrained is not None


def _resumes(command: Command) -> bool:
    return command.flags.resume not in (None, "latest")


def _model(command: Command, notes: Remarks) -> Iterator[Line]:
    flags = command.flags
    is_folder = flags.model.startswith(FOLDERS)
    name = flags.model if is_folder else flags.model.replace("/", "-")
    forced = {one: getattr(flags, one) for one in FORCED if getattr(flags, one) not in (None, False)}
    origin = ", ".join(command.said(one) for one in ("model", *forced))
    if forced.keys() == {"force_quick_gelu"} and not is_folder and _is_known(f"{name}-quickgelu"):
        name, forced = f"{name}-quickgelu", {}
    if _resumes(command):
        notes.refuse("resume", _resumed(is_folder or bool(forced)))
    if is_folder or flags.pretrained or _resumes(command):
        for one in forced:
            notes.refuse(
                one, "weights that are loaded are of the model as it is described; another shape is not theirs"
            )
        yield from _with_weights(command, notes, name, origin)
    elif not forced:
        yield Line("model.name", name, origin)
    else:
        yield from _described(name, forced, origin, command, notes)


def _resumed(is_odd: bool) -> str:
    rest = "AdamW's state and the epoch are not taken; runs of ours go on by themselves (run.resume)"
    if is_odd:
        return f"neither weights (import them: contrastive import ARCH@FILE OUT) nor state are taken; {rest}"
    return f"its weights are taken (model.checkpoint); {rest}"


def _with_weights(command: Command, notes: Remarks, name: str, origin: str) -> Iterator[Line]:
    flags, is_folder = command.flags, name.startswith(FOLDERS)
    if _resumes(command) and not is_folder:
        yield Line("model.checkpoint", f"{name}@{flags.resume}", f"{origin}, {command.said('resume')}")
        return
    yield Line("model.name", name, origin)
    if is_folder and flags.pretrained:
        notes.refuse("pretrained", "the folder brings its own weights, in open_clip too")
    elif flags.pretrained:
        yield Line("model.pretrained", flags.pretrained, command.said("pretrained"))


def _described(name: str, forced: dict[str, Any], origin: str, command: Command, notes: Remarks) -> Iterator[Line]:
    import open_clip  # seconds; only what is forced needs the description

    size = forced.get("force_image_size")
    if size is not None:
        forced["force_image_size"] = size[0]
    if size is not None and len(set(size)) > 1:
        notes.refuse("force_image_size", "only square inputs are supported; the first side is taken")
    described: dict[str, Any] | None = json.loads(json.dumps(open_clip.get_model_config(name)))
    if described is None:
        for one in forced:
            notes.refuse(one, f"open_clip has no description of {name}")
        yield Line("model.name", name, command.said("model"))
        return
    if "pretrained_image" in forced and "timm_model_name" not in described["vision_cfg"]:
        notes.refuse("pretrained_image", "the image tower is none of timm's; open_clip refuses it as well")
        del forced["pretrained_image"]
    for one, value in forced.items():
        *parents, key = FORCED[one]
        (described[parents[0]] if parents else described)[key] = value
    yield Line("model.model_cfg", described, origin)


def _is_known(name: str) -> bool:
    import open_clip  # seconds; only --force-quick-gelu asks

    return open_clip.get_model_config(name) is not None
