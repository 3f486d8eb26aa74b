"""The GPU benchmark's half that is carried to the GPU: it needs Python, NumPy and JAX alone."""
