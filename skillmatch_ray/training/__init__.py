"""Ray Train: the loop, batches of relations, checkpoints."""
