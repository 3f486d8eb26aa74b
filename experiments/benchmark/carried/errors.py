"""What the user can mend."""


class CarriedError(ValueError):
    """One clear line: what is wrong, and the remedy."""
