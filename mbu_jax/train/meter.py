"""Running means over the updates of an epoch."""

from collections.abc import Mapping
from typing import Any, Self


class EpochMeter:
    """Sums of what updates report; JSON keeps them through an interruption.

    Example:
      >>> meter = EpochMeter()
      >>> meter.add({"loss": 1.0})
      >>> meter.add({"loss": 2.0})
      >>> meter.means()
      {'loss': 1.5}
    """

    def __init__(self) -> None:
        self.updates = 0
        self._sums: dict[str, float] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one update.

        Args:
          values: finite numbers by name, the same names every time.
        """
        self.updates += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Average over the updates.

        Returns:
          Mean by name.
        """
        return {name: total / self.updates for name, total in self._sums.items()}

    def to_json(self) -> dict[str, Any]:
        """Describe the meter.

        Returns:
          What `from_json` takes.
        """
        return {"updates": self.updates, "sums": self._sums}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Restore a meter.

        Args:
          saved: what `to_json` gave.

        Returns:
          The meter.

        Example:
          >>> EpochMeter.from_json({"updates": 2, "sums": {"loss": 3.0}}).means()
          {'loss': 1.5}
        """
        meter = cls()
        meter.updates = saved["updates"]
        meter._sums = dict(saved["sums"])
        return meter
