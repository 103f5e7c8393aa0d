"""Features to named scalar terms.

The contract: a module whose `forward(features, batch)` takes the model's features of this rank's samples
(`image_features`, `text_features` [b, embed_dim], L2-normalised; `logit_scale` [1] in log space; `logit_bias` [1] or
absent) and the batch, and returns scalars: `loss` is trained on, the others are logged. A loss owns its head and
gathers over ranks if it must; the mean over ranks of what it returns is the global loss.

What a loss may also say, as attributes of its class:

`splits_batch = True`: it is a function of `features` and `batch` alone, so that the step may compute the features in
micro-batches and hand them over whole. Without it a run that needs micro-batches is refused.

`needs(options) -> set[str]`, static: what it reads beyond the keys above, given the options of its constructor that
the run sets: `label_id` or `image_id` of the batch, `logit_bias` or `teacher_image_features` of the features. A run
that has no such thing is refused before it starts.
"""
