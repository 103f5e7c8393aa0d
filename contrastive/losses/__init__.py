"""Features to named scalar terms.

The contract: a module whose `forward(features, batch)` takes the model's features of this rank's samples
(`image_features`, `text_features` [b, embed_dim], L2-normalised; `logit_scale` [1] in log space; `logit_bias` [1] or
absent) and the batch, and returns scalars: `loss` is trained on, the others are logged. A loss owns its head, gathers
over ranks if it must, and averages over its own rank's samples: the mean over ranks is the global loss.
"""
