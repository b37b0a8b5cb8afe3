"""Training: the loop, what is learnt, optimizers that hold masks, learning rates, and methods that prune meanwhile."""
