"""The inference benchmark: every row in a process of its own, timed in turn with the others."""
