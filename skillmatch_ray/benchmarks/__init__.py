"""Measurements that a stranger can repeat: one run, one machine, the same texts on every side."""
