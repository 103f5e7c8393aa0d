from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import yaml

from contrastive.config import load
from contrastive.errors import ConfigError
from contrastive.models.build import check as check_model
from contrastive.runs.open_clip_command import parser
from contrastive.runs.open_clip_flags import translate, write
from contrastive.runs.open_clip_reasons import EQUIVALENTS, REASONS
from contrastive.settings import Config
from contrastive.train import task

BASE = "--train-data a.tar --train-num-samples 1000 --model ViT-B-32 --batch-size 10"
COMMANDS = {
    "readme, one process": """python -m open_clip_train.main \\
    --save-frequency 1 --zeroshot-frequency 1 --report-to tensorboard \\
    --train-data="/path/to/train_data.csv" --val-data="/path/to/validation_data.csv" \\
    --csv-img-key filepath --csv-caption-key title --imagenet-val=/path/to/imagenet/root/val/ \\
    --warmup 10000 --batch-size=128 --lr=1e-3 --wd=0.1 --epochs=30 --workers=8 --model RN50 \\
    --train-num-samples 3318333""",
    "readme, torchrun": """cd open_clip/src
torchrun --nproc_per_node 4 -m open_clip_train.main -- \\
    --train-data '/data/cc12m/cc12m-train-{0000..2175}.tar' --train-num-samples 10968539 \\
    --dataset-type webdataset --batch-size 320 --precision amp --workers 4 --imagenet-val /data/imagenet/validation/""",
    "readme, slurm": """#!/bin/bash -x
#SBATCH --nodes=32
#SBATCH --gres=gpu:4
#SBATCH --ntasks-per-node=4
#SBATCH --job-name=open_clip
eval "$(/path/to/conda/bin/conda shell.bash hook)" # init conda
export MASTER_PORT=12802
srun --cpu_bind=v --accel-bind=gn python -u src/open_clip_train/main.py \\
    --save-frequency 1 --report-to tensorboard --train-data="/data/LAION-400M/{00000..41455}.tar" \\
    --warmup 2000 --batch-size=256 --epochs=32 --workers=8 --model ViT-B-32 --name "ViT-B-32-Vanilla" --seed 0 \\
    --local-loss --gather-with-grad --train-num-samples 407332084""",
    "readme, fine-tuning CoCa": """python -m open_clip_train.main --dataset-type "csv" \\
    --train-data "path/to/data/dir/train2014.csv" --warmup 1000 --batch-size 128 --lr 1e-5 --wd 0.1 --epochs 1 \\
    --workers 3 --model "coca_ViT-L-14" --report-to "wandb" --coca-contrastive-loss-weight 0 \\
    --coca-caption-loss-weight 1 --log-every-n-steps 100 --train-num-samples 414113""",
    "readme, resumed": """python -m open_clip_train.main --train-data="/path/to/train.tar" --train-num-samples 100 \\
    --resume /path/to/checkpoints/epoch_K.pt --model RN50""",
    "readme, frozen text": """torchrun --nproc_per_node 4 -m open_clip_train.main \\
    --train-data="pipe:aws s3 cp s3://b/{00000..41455}.tar -" --train-num-samples 9 --lr 5e-4 --lock-text \\
    --lock-text-unlocked-layers 10 --lock-text-freeze-layer-norm --model xlm-roberta-base-ViT-B-32""",
    "sources that are upsampled": """torchrun --nproc_per_node 8 -m open_clip_train.main --dataset-resampled \\
    --train-data '/a/{0..9}.tar::/b/{0..99}.tar' --train-data-upsampling-factors 1::0.5 --accum-freq 4 \\
    --train-num-samples 1000000 --batch-size 512 --grad-clip-norm 1.0 --precision amp_bf16 --grad-checkpointing \\
    --model ViT-L-14 --lr-scheduler const --torchcompile --beta2 0.95""",
    "SigLIP": """torchrun --nproc-per-node=8 --nnodes=2 -m open_clip_train.main --siglip --model ViT-B-16-SigLIP \\
    --train-data 's3://bucket/{00000..01000}.tar' --train-num-samples 12800000 --batch-size 256 --wd 1e-4 \\
    --loss-dist-impl reduce --save-most-recent --delete-previous-checkpoint --save-frequency 0""",
    "distillation": """python -m open_clip_train.main --train-data a.tar --train-num-samples 4096 --model ViT-B-32 \\
    --distill-model ViT-L-14 --distill-pretrained openai --batch-size 64 --pretrained laion2b_s34b_b79k \\
    --lr 1e-5 --warmup 100 --epochs 1 --opt timm/lamb --logs none --name kd""",
    "CLIPA": """torchrun --nproc_per_node 8 -m open_clip_train.main --train-data '/d/{0..9}.tar' --batch-size 2048 \\
    --train-num-samples 400000000 --model ViT-L-14-CLIPA --force-image-size 112 --force-patch-dropout 0.5 \\
    --force-context-length 16 --image-mean 0.5 --image-std 0.5 --image-interpolation bilinear --warmup 3200 \\
    --aug-cfg scale='(0.4, 1.0)' color_jitter='(0.32, 0.32, 0.32, 0.08)' color_jitter_prob=0.8 gray_scale_prob=0.2 \\
    --image-resize-mode squash --beta1 0.9 --beta2 0.95 --wd 0.2 --lr 1e-3 --remote-sync s3://bucket/logs""",
}


def settings(text: str, folder: Path, processes: int | None = None) -> Config:
    """Return the run as pretrain.py would have it."""
    write(translate(text, processes), folder / "run.yaml")
    return load([str(folder / "run.yaml")])


def told(text: str) -> dict[str, str]:
    return dict(translate(text).notes.without)


@pytest.mark.parametrize("text", COMMANDS.values(), ids=COMMANDS)
def test_commands_that_people_give_become_runs_that_pass_our_checks(text: str, tmp_path: Path):
    run = settings(text, tmp_path)
    check_model(run.model)
    task.check(run)


def test_every_flag_of_open_clip_has_an_equivalent_or_a_reason():
    flags = set(parser().spellings)
    assert flags == EQUIVALENTS.keys() | REASONS.keys()
    assert not EQUIVALENTS.keys() & REASONS.keys()


CHANGED: dict[str, str] = {  # what shows that a flag counts
    "accum_freq": "--accum-freq 2",
    "aug_cfg": "--aug-cfg gray_scale_prob=0.5",
    "batch_size": "--batch-size 20",
    "beta1": "--beta1 0.5",
    "beta2": "--beta2 0.5",
    "dataset_resampled": "--dataset-resampled",
    "dataset_type": "--dataset-type synthetic",
    "delete_previous_checkpoint": "--delete-previous-checkpoint",
    "distill_model": "--distill-model ViT-B-16 --distill-pretrained openai",
    "distill_pretrained": "--distill-model ViT-B-16 --distill-pretrained laion2b",
    "epochs": "--epochs 3",
    "eps": "--eps 0.1",
    "force_context_length": "--force-context-length 16",
    "force_custom_text": "--force-custom-text",
    "force_image_size": "--force-image-size 64",
    "force_patch_dropout": "--force-patch-dropout 0.5",
    "force_quick_gelu": "--force-quick-gelu",
    "grad_checkpointing": "--grad-checkpointing",
    "grad_clip_norm": "--grad-clip-norm 2",
    "image_interpolation": "--image-interpolation bilinear",
    "image_mean": "--image-mean 0.5",
    "image_resize_mode": "--image-resize-mode longest",
    "image_std": "--image-std 0.4 0.5 0.6",
    "imagenet_v2": "--imagenet-v2 /v2",
    "imagenet_val": "--imagenet-val /v",
    "log_every_n_steps": "--log-every-n-steps 7",
    "logs": "--logs /l",
    "lr": "--lr 1",
    "lr_scheduler": "--lr-scheduler const",
    "model": "--model RN50",
    "name": "--name n",
    "opt": "--opt timm/lamb",
    "precision": "--precision fp32",
    "pretrained": "--pretrained openai",
    "pretrained_image": "--model convnext_base --pretrained-image",
    "report_to": "--report-to all",
    "resume": "--resume e.pt",
    "save_frequency": "--save-frequency 2",
    "save_most_recent": "--save-most-recent",
    "seed": "--seed 3",
    "siglip": "--siglip",
    "skip_scheduler": "--skip-scheduler",
    "torchcompile": "--torchcompile",
    "train_data": "--train-data b.tar",
    "train_data_upsampling_factors": "--train-data a.tar::b.tar --train-data-upsampling-factors 1::2",
    "train_num_samples": "--train-num-samples 7",
    "warmup": "--warmup 7",
    "wd": "--wd 7",
    "workers": "--workers 7",
    "zeroshot_frequency": "--imagenet-val /v --zeroshot-frequency 7",
}


@pytest.mark.parametrize("name", sorted(EQUIVALENTS))
def test_a_flag_with_an_equivalent_changes_the_settings_it_names(name: str):
    before = f"{BASE} --save-frequency 2" if name == "save_most_recent" else BASE
    base = {line.key: line.value for line in translate(before).lines}
    found = {line.key: line.value for line in translate(f"{before} {CHANGED[name]}").lines}
    changed = {key for key in base.keys() | found.keys() if base.get(key) != found.get(key)}
    named = [key.split(".*")[0] for key in EQUIVALENTS[name].split(", ")]
    assert any(one.startswith(key) or key.startswith(one) for key in named for one in changed)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_a_flag_without_an_equivalent_is_named_with_the_reason_and_changes_nothing(name: str):
    action = next(one for one in parser()._actions if one.dest == name)
    kinds = {int: "2", float: "0.5", None: "x", str: "x"}
    value = "" if action.nargs == 0 else (action.choices or [kinds[action.type]])[0]  # type: ignore[index]
    flag = f"{action.option_strings[0]} {value}".strip()
    translated = translate(f"{BASE} {flag}")
    assert translated.notes.without == [(flag, REASONS[name])]
    assert translated.lines == translate(BASE).lines
    assert f"#   {flag}: {REASONS[name]}\n" in translated.yaml()


def test_batch_length_and_schedule_are_counted_in_samples_over_all_processes(tmp_path: Path):
    text = COMMANDS["sources that are upsampled"]
    run = settings(text, tmp_path)
    assert run.data.global_batch_size == 512 * 8 * 4
    assert run.train.micro_batch_size == 512
    assert run.optim.warmup_samples == 10_000 * 512 * 8 * 4
    assert run.train.total_samples == 32 * 1_000_000
    assert run.train.save_every_steps == 62  # 1,000,000 samples in batches of 16,384, the last one filled up
    assert run.optim.final_learning_rate == run.optim.learning_rate == 5e-4
    assert (run.optim.beta1, run.optim.beta2, run.optim.clip_grad_norm) == (0.9, 0.95, 1.0)
    assert run.train.precision == "bf16"
    assert run.train.compile
    assert run.train.gradient_checkpointing
    assert run.data.replacement
    assert run.data.sources["source_2"] == {"shards": "/b/{0..99}.tar", "weight": 0.5}
    assert "--warmup 10000 is no less than the 1984 steps of the run" in translate(text).remarks()


def test_what_open_clip_does_by_default_and_we_do_not_is_written(tmp_path: Path):
    run = settings("--train-data a.tar --train-num-samples 1000", tmp_path)
    ours = Config()
    assert (run.model.name, run.data.workers, run.data.random_crop) == ("RN50", 4, [0.9, 1.0])
    assert run.data.global_batch_size == 64
    assert (run.optim.epsilon, run.optim.beta2, run.optim.clip_grad_norm) == (1e-8, 0.999, None)
    assert (run.train.precision, run.train.keep_checkpoints, run.train.save_every_minutes) == ("fp16", None, None)
    assert run.losses == {"contrastive": {"name": "infonce", "duplicates": "negatives"}}
    assert (run.tracking.tensorboard, run.tracking.log_every_steps) == (False, 100)
    assert replace(run.eval) == ours.eval


def test_siglip_has_its_loss_temperature_and_bias(tmp_path: Path):
    run = settings(COMMANDS["SigLIP"], tmp_path)
    assert run.losses["contrastive"] == {"name": "sigmoid", "duplicates": "negatives"}
    assert (run.model.init_temperature, run.model.init_logit_bias) == (0.1, -10.0)
    assert run.data.global_batch_size == 4096
    assert (run.train.save_every_steps, run.train.keep_checkpoints) == (3125, 2)


def test_distillation_has_a_teacher_and_a_second_loss(tmp_path: Path):
    run = settings(COMMANDS["distillation"], tmp_path)
    assert run.model.teacher == {"name": "ViT-L-14", "pretrained": "openai"}
    assert run.losses["distillation"] == {"name": "distillation"}
    assert (run.model.name, run.model.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert run.run.directory == "runs/kd"
    assert "the optimizer is AdamW" in told(COMMANDS["distillation"])["--opt timm/lamb"]


def test_what_is_forced_is_in_open_clips_own_description(tmp_path: Path):
    run = settings(COMMANDS["CLIPA"], tmp_path)
    expected = open_clip.get_model_config("ViT-L-14-CLIPA")
    expected["vision_cfg"] |= {"image_size": 112, "patch_dropout": 0.5}
    expected["text_cfg"]["context_length"] = 16
    assert run.model.model_cfg == expected
    assert run.model.preprocess == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    photo = {"name": "photo", "flip": 0.0, "jitter": 0.8, "grey": 0.2}
    assert run.data.augment == {**photo, "brightness": 0.32, "contrast": 0.32, "saturation": 0.32, "hue": 0.08}
    assert run.data.random_crop == [0.4, 1.0]
    assert open_clip.get_model_config("ViT-L-14-CLIPA")["vision_cfg"]["image_size"] == 224  # not changed in place


@pytest.mark.parametrize(
    ("flags", "model", "said"),
    [
        ("--resume e.pt --pretrained openai", {"checkpoint": "ViT-B-32@e.pt"}, "AdamW's state and the epoch are not"),
        ("--resume latest", {"name": "ViT-B-32"}, ""),
        ("--model local-dir:/a/b", {"name": "local-dir:/a/b"}, ""),
        ("--model local-dir:/a/b --resume e.pt", {"name": "local-dir:/a/b"}, "contrastive import ARCH@FILE OUT"),
        ("--model hf-hub:a/b --pretrained x", {"name": "hf-hub:a/b"}, "the folder brings its own weights"),
        ("--force-quick-gelu", {"name": "ViT-B-32-quickgelu"}, ""),
        (
            "--pretrained openai --force-image-size 64",
            {"name": "ViT-B-32", "pretrained": "openai"},
            "another shape is not theirs",
        ),
        ("--model ViT-B/16", {"name": "ViT-B-16"}, ""),
        ("--model coca_ViT-B-32", {"name": "coca_ViT-B-32"}, "its captioning loss"),
        ("--pretrained-image", None, "the image tower is none of timm's"),
        ("--model ViT-Z --force-custom-text", {"name": "ViT-Z"}, "open_clip has no description of ViT-Z"),
        ("--force-image-size 64 32", None, "only square inputs"),
        ("--image-interpolation random", {"name": "ViT-B-32"}, "one interpolation is used"),
    ],
)
def test_the_model_is_the_one_that_open_clip_would_train(flags: str, model: dict[str, Any] | None, said: str):
    translated = translate(f"{BASE} {flags}")
    if model is not None:
        found = {line.key.partition(".")[2]: line.value for line in translated.lines if line.key.startswith("model.")}
        assert found == model
    assert said in translated.remarks()
    assert bool(translated.notes.without) == bool(said)


def test_data_that_are_no_shards_are_left_out_and_named(tmp_path: Path):
    text = COMMANDS["readme, one process"]
    assert settings(text, tmp_path).data.train == ""
    assert "write their images and captions into .tar shards" in told(text)["--train-data /path/to/train_data.csv"]
    assert told(text)["--val-data /path/to/validation_data.csv"].startswith("held data are a dataset of their own")
    assert "copy it with root: /path/to/imagenet/root/val/, split: ., format: {name: image_folder}" in (
        translate(text).remarks()
    )
    assert "data.allow_pipes=true" in translate(COMMANDS["readme, frozen text"]).remarks()


def test_a_comment_says_from_which_flag_a_setting_comes_and_yaml_reads_it_as_one(tmp_path: Path):
    text = translate("torchrun --nproc_per_node 2 -m open_clip_train.main " + BASE).yaml()
    assert "  global_batch_size: 20  # --batch-size 10 x 2 processes x --accum-freq 1 (open_clip's default)\n" in text
    assert "  epsilon: 1.0e-06  # --eps 1e-06 (open_clip's default)\n" in text
    assert yaml.safe_load(text)["optim"]["epsilon"] == 1e-6
    assert text.splitlines()[1] == "# On 2 processes (torchrun --nproc_per_node 2)."
    assert "one process is assumed" not in text
    assert "one process is assumed; --processes N" in translate(BASE).yaml()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("--model RN50", "--train-data: is not given: it trains on nothing; `contrastive eval` evaluates"),
        ("--train-data a.tar", "--train-num-samples: is not given: an epoch of open_clip is as long as it says"),
        (f"{BASE} --train-data-upsampling-factors 1::2", "--train-data-upsampling-factors: '1::2' must be as many"),
        (f"{BASE} --train-data-upsampling-factors x", "--train-data-upsampling-factors: 'x' must be as many numbers"),
        (f"{BASE} --aug-cfg scal=1", "--aug-cfg scal: open_clip has no such option; it has scale, ratio"),
        (f"{BASE} --aug-cfg scale=0.4", "--aug-cfg scale: 0.4 must be 2 numbers in brackets and quotes"),
        (f"{BASE} --aug-cfg color_jitter=0.4", "--aug-cfg color_jitter: 0.4 must be 4 numbers"),
        (f"{BASE} --accum-freq 0", "--accum-freq: 0 must be at least 1"),
    ],
)
def test_what_says_not_enough_is_refused(text: str, rule: str):
    with pytest.raises(ConfigError) as caught:
        translate(text)
    assert str(caught.value).startswith(rule)


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"run\.yaml exists already"):
        write(translate(BASE), tmp_path / "run.yaml")
    assert (tmp_path / "run.yaml").read_text() == "mine"
