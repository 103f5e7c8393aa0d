"""Train a contrastive image-text model.

python pretrain.py configs/glyphs.yaml
python pretrain.py configs/glyphs.yaml data.global_batch_size=512 run.directory=runs/mine
accelerate launch --config_file configs/launch/cpu2.yaml pretrain.py configs/glyphs.yaml train.world_size=2
python pretrain.py --help
"""

import sys

from contrastive.cli import pretrain

if __name__ == "__main__":
    sys.exit(pretrain())
