"""CLIP-style contrastive pretraining: train, evaluate and export image-text models."""
