"""The time that a run may take."""

import time


class Clock:
    """Counts from when it is made.

    Args:
      seconds: that the run may take.
    """

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._until = self._began + seconds

    def left(self) -> float:
        """Tell how much is left.

        Returns:
          Seconds, not less than 0.
        """
        return max(0.0, self._until - time.monotonic())

    def passed(self) -> float:
        """Tell how much has gone.

        Returns:
          Seconds.
        """
        return time.monotonic() - self._began

    def part(self, seconds: float) -> "Clock":
        """Start a clock for a part of the run.

        Args:
          seconds: that the part may take, if so many are left.

        Returns:
          The clock.
        """
        return Clock(min(seconds, self.left()))
