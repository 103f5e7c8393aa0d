"""From tars to batches: which shards, in which order, read how, and handed over as what."""
