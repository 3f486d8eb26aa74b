"""The convolutions' GPU engines, and what all GPU engines share: the target and the calls."""
