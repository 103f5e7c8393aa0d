"""The small open_clip model that parity is measured with, trained on pictures of the toy world.

Its weights are in git, in half precision, because training is not the same to the last bit on every machine.
"""

import json
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.parity.toy_world import COLOURS, SHAPES, WORDS, Draw, pixels

FOLDER = Path(__file__).parent / "model"
SPECIAL = ("<unk>", "<start>", "<end>")  # the end token has the highest id: the text tower pools there
VOCABULARY = ("<pad>", *WORDS, *COLOURS, *SHAPES, *SPECIAL)
CONTEXT = 20
MODEL_CFG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16, "mlp_ratio": 2},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": len(VOCABULARY),
        "width": 48,
        "heads": 3,
        "layers": 2,
        "mlp_ratio": 2,
        "hf_tokenizer_name": "word-level",  # open_clip takes the files beside the weights
    },
}
PREPROCESS = {"mean": [0.45, 0.45, 0.45], "std": [0.25, 0.25, 0.25]}
STEPS, BATCH, LEARNING_RATE = 250, 96, 2e-3


def train(folder: Path) -> float:
    """Write the trained model as open_clip saves one; return its last loss."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS}, indent=1) + "\n"
    )
    _write_tokenizer(folder)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = open_clip.CLIP(**MODEL_CFG)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    transform = image_transform_v2(PreprocessCfg(size=32, **PREPROCESS), is_train=False)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    draw = Draw(1000)
    for _ in range(STEPS):
        scenes = [draw.scene(1 + draw.below(2)) for _ in range(BATCH)]
        images = torch.stack([transform(Image.fromarray(pixels(scene, draw))) for scene in scenes])
        texts = tokenizer([draw.one(scene.captions()) for scene in scenes])
        image_features, text_features, scale = model(images, texts)
        logits, own = scale * image_features @ text_features.T, torch.arange(BATCH)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return loss.item()


def _write_tokenizer(folder: Path) -> None:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, VOCABULARY.index(word)) for word in ("<start>", "<end>")]
    inner.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    names = {"unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=CONTEXT, **names).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1)
    )
