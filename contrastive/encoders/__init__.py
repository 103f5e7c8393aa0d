"""Towers: tensors in, (pooled [B, width], tokens [B, L, width]) out. One file a library, or a tower of our own.

The contract that `contrastive.models` relies on: a module with an int attribute `width`; `forward(x)` returns the
pair above; row i of the result depends on row i of the input alone, in training too, so that a batch may be cut over
processes. Image towers get normalised float [B, 3, H, W], text towers int64 [B, L] padded with `pad_id`. A text tower
whose pooled output no padding can reach says `reads_padding = False`: training then cuts captions to the longest of
the batch.
"""
