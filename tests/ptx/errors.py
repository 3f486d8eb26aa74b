"""What the executor of PTX raises."""


class PtxError(Exception):
    """A program that is not valid, not understood, or does something the ISA leaves undefined."""


class AddressError(PtxError):
    """An access that is not allowed; some thread's `address` is to blame."""

    def __init__(self, message: str, address: int) -> None:
        super().__init__(message)
        self.address = address
