"""What the executor of PTX raises."""


class PtxError(Exception):
    """A program that is not valid, not understood, or does something the ISA leaves undefined."""
