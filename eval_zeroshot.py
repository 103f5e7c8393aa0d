"""Evaluate a run or a checkpoint: zero-shot classification and retrieval.

python eval_zeroshot.py --model runs/glyphs
python eval_zeroshot.py --model runs/glyphs --data configs/eval/digits.yaml
accelerate launch --config_file configs/launch/cpu2.yaml eval_zeroshot.py --model runs/glyphs
"""

import sys

from contrastive.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
