"""The two towers: head, pooling, save and load."""
