"""The step, its exactness, and the loop around it. Knows models, losses and data; never an evaluator."""
