"""A folder of transformers: CLIPModel, SiglipModel or VisionTextDualEncoderModel, read by transformers."""

from typing import Any

import numpy as np
import torch
import transformers


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        transformers.logging.disable_progress_bar()
        options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        self.model, report = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False, **options)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report[kind]:
                raise ValueError(f"{kind}: {sorted(report[kind])[0]}")
        self.model.eval()
        self.processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
        self.images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.default = transformers.AutoImageProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.difference: float | None = None

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        with torch.inference_mode():
            return _pooled(self.model.get_image_features(pixel_values=torch.from_numpy(pixels)))

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        text = torch.from_numpy(ids)
        with torch.inference_mode():
            return _pooled(self.model.get_text_features(input_ids=text, attention_mask=self._mask(text)))

    def _mask(self, text: Any) -> Any:
        """Return what tells padding, for the text towers of a dual encoder that ask for it."""
        text_config = self.model.config.text_config
        if self.model.config.model_type != "vision-text-dual-encoder" or text_config.model_type == "clip_text_model":
            return None
        return (text != self.tokenizer.pad_token_id).long()

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        exact, default = (
            np.stack([np.asarray(one(images=image, return_tensors="pt")["pixel_values"][0]) for image in images])
            for one in (self.images, self.default)
        )
        self.difference = float(np.abs(exact - default).max())
        return exact

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        rule = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
        return self.processor(text=texts, **rule)["input_ids"]

    def module(self, name: str) -> Any:
        """Return a layer."""
        return self.model.get_submodule(name)

    def numbers(self) -> dict[str, Any]:
        """Return scale and bias of the logits."""
        named = {name: getattr(self.model, name, None) for name in ("logit_scale", "logit_bias")}
        return {name: value.item() for name, value in named.items() if value is not None}

    def extra(self) -> dict[str, Any]:
        """Return the largest difference between the pixels of the default backend and of the exact one."""
        return {} if self.difference is None else {"extra:pixels_torchvision": np.array(self.difference)}


def _pooled(output: Any) -> Any:
    return getattr(output, "pooler_output", output).numpy()
