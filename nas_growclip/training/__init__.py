"""Contrastive training, its state, its checkpoints, and the processes that share it."""
