"""What a workload will need, from stored rates."""
