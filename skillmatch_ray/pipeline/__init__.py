"""Ray Data: datasets to vectors and token states."""
