import pytest

from contrastive.errors import ConfigError
from contrastive.runs.open_clip_command import read

DATA = "--train-data a.tar --train-num-samples 1000"


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("python -m open_clip_train.main", 1),
        ("python -m training.main", 1),
        ("python src/open_clip_train/main.py", 1),
        ("torchrun --nproc_per_node 8 -m open_clip_train.main --", 8),
        ("/opt/bin/torchrun --nnodes=4 --nproc-per-node=8 -m open_clip_train.main", 32),
        ("CUDA_VISIBLE_DEVICES=0,1 python -m torch.distributed.run --nproc_per_node 2 -m training.main", 2),
        ("accelerate launch --num_processes 6 -m open_clip_train.main", 6),
        ("horovodrun -np 16 python -m training.main", 16),
        ("#!/bin/bash\n#SBATCH --nodes=32\n#SBATCH --ntasks-per-node=4\ncd src\n"
         "srun --cpu_bind=v --accel-bind=gn python -u src/open_clip_train/main.py", 128),
        ("srun -n 12 --nodes 3 python -m open_clip_train.main", 12),
        ("srun --nodes 2 torchrun --nnodes 2 --nproc_per_node 4 -m open_clip_train.main", 8),
    ],
)  # fmt: skip
def test_the_words_of_the_launcher_say_how_many_processes_train(launcher: str, processes: int):
    command = read(f"{launcher} {DATA} --lr 1e-3")
    assert command.processes == processes
    assert command.flags.lr == 1e-3
    assert command.given == {"train_data", "train_num_samples", "lr"}


def test_a_number_that_is_told_counts_more_than_the_launchers():
    assert read(f"srun python -m open_clip_train.main {DATA}", 5).processes == 5


def test_flags_alone_lines_that_go_on_comments_and_what_the_shell_does_with_the_output_are_understood():
    command = read(f"--wd=0.1 \\\n  {DATA} \\\n  --model 'ViT-B-32'  # small\n --batch 12 2>&1 | tee log.txt")
    assert (command.flags.wd, command.flags.model, command.flags.batch_size) == (0.1, "ViT-B-32", 12)
    assert command.processes == 1


@pytest.mark.parametrize(("model", "beta2", "eps"), [("ViT-B-16", 0.98, 1e-6), ("RN50", 0.999, 1e-8)])
def test_defaults_that_open_clip_takes_from_the_models_name_are_its_own(model: str, beta2: float, eps: float):
    command = read(f"{DATA} --model {model}")
    assert (command.flags.lr, command.flags.beta2, command.flags.eps) == (5e-4, beta2, eps)
    assert command.said("eps").endswith("(open_clip's default)")
    assert command.said("model") == f"--model {model}"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("--train-data 'a.tar --lr 1", "the command line: no closing quotation; a quote is opened and not closed"),
        ("--train-dta a.tar", "--train-dta: open_clip's trainer has no such flag; did you mean --train-data?"),
        ("--zzzz 1", "--zzzz: open_clip's trainer has no such flag"),
        ("--lr fast", "--lr: invalid float value: 'fast'"),
        ("--precision half", "--precision: invalid choice: 'half' (choose from"),
        ("--lr", "--lr: expected one argument"),
        ("--train-data a.tar b.tar", "'b.tar': belongs to no flag of open_clip; is a quote or a flag missing"),
        ("--aug-cfg scale", "--aug-cfg: must be KEY=VALUE"),
        ("python train.py --lr 1", "the command line: trains nothing: give a command of open_clip_train.main"),
        ("", "the command line: trains nothing"),
        ("srun python -m open_clip_train.main --lr 1", "srun: the command line does not say how many processes"),
        (
            "torchrun --nproc_per_node gpu -m open_clip_train.main",
            "--nproc_per_node gpu: is no number of processes; say",
        ),
        ("torchrun --nnodes 1:4 -m open_clip_train.main", "--nnodes 1:4: is no number of processes"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, rule: str):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(rule)
    with pytest.raises(ConfigError, match="--processes: 0 must be at least 1"):
        read(DATA, 0)
