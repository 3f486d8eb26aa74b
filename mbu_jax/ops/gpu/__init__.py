"""What the GPU engines share: the target that kernels are compiled for, and the calls."""
