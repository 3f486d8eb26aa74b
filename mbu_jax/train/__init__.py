"""The parts of the training loop, each in a file of its own name."""
