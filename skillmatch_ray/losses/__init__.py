"""Contrastive losses over the relation matrix of a batch, one file each."""
