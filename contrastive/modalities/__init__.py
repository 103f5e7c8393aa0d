"""Bytes to tensors: decoding, cropping, augmenting, tokenising."""
