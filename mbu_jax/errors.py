"""The one exception that a person using the product is meant to see."""


class InputError(ValueError):
    """A problem with what the user gave, told in one line with its remedy.

    Command-line programs print the message after ``error:`` and exit with code 2; library
    callers may catch it as a ``ValueError``.

    Example:
      >>> raise InputError("masks/a.png is 16-bit colour; save it as 8-bit grey")
      Traceback (most recent call last):
      mbu_jax.errors.InputError: masks/a.png is 16-bit colour; save it as 8-bit grey
    """
