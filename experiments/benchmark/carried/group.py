"""Rows on one shape, timed in turn: A B C, A B C, so that a drifting clock is fair to all."""

import statistics
from collections.abc import Callable
from typing import Any

from experiments.benchmark.carried.clock import Clock
from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.processes import Failed, Process
from experiments.benchmark.carried.shifts import divide

_BUNDLE_SECONDS = 0.04  # of calls between two waits
_MOST_CALLS = 64
_TRIED = 3  # calls that say how long one takes
_ENERGY_SECONDS = 1.5
_MOST_ROUNDS, _LEAST_ROUNDS = 9, 3
_LATENCIES = 3  # single calls a round
_ANSWER_SECONDS = 60.0
_OUT_OF_TIME = "no time was left for it"


def time_group(
    folder: Folder,
    step: dict[str, Any],
    clock: Clock,
    *,
    memory: int | None,
    energy: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Time the rows that a step names.

    Args:
      folder: that they are in.
      step: of the manifest: ``size``, ``batch``, ``rows``.
      clock: that ends it.
      memory: of the GPU in bytes, or None where there is no limit.
      energy: whether the GPU counts it.
      tell: prints a line.

    Returns:
      ``size``, ``batch``, ``rows`` with samples, and under ``not_measured`` why others have none.
    """
    named = {row["name"]: row for row in folder.manifest["rows"]}
    rows = [named[name] for name in step["rows"]]
    height, width = step["size"]
    measured: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for number, shift in enumerate(divide(rows, step["batch"] * height * width, memory)):
        shift_rows = _Shift(folder, step, shift, clock, tell)
        try:
            found = shift_rows.time(energy)
        finally:
            shift_rows.close()
        measured |= {name: {"shift": number, **row} for name, row in found.items()}
        missing |= shift_rows.missing
    order = {name: measured[name] for name in step["rows"] if name in measured}
    return {"size": step["size"], "batch": step["batch"], "rows": order, "not_measured": missing}


class _Shift:
    """Rows that are alive at once."""

    def __init__(
        self,
        folder: Folder,
        step: dict[str, Any],
        rows: list[dict[str, Any]],
        clock: Clock,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._step, self._rows = folder, step, rows
        self._clock, self._tell = clock, tell
        self._alive: dict[str, Process] = {}
        self.missing: dict[str, str] = {}

    def time(self, energy: bool) -> dict[str, Any]:
        loaded = self._load()
        calls = self._bundles()
        found: dict[str, dict[str, Any]] = {
            name: {"calls": calls[name], "seconds": [], "device_seconds": [], "latencies": []}
            for name in calls
        }
        began = self._clock.passed()
        for done in range(_MOST_ROUNDS):
            each = (self._clock.passed() - began) / max(done, 1)
            reserved = len(self._alive) * _ENERGY_SECONDS if energy else 0.0
            if done >= _LEAST_ROUNDS and self._clock.left() < reserved + each:
                break
            for name in list(self._alive):
                self._round(name, calls[name], found[name])
        for name in list(self._alive) if energy else []:
            self._energy(name, calls[name], found[name])
        return {
            name: {**_summary(found[name], self._step["batch"]), **loaded[name]}
            for name in self._alive
        }

    def close(self) -> None:
        for process in self._alive.values():
            process.close()

    def _load(self) -> dict[str, dict[str, Any]]:
        """Ours all at once; others choose algorithms by timing them, and so one after another."""
        loaded: dict[str, dict[str, Any]] = {}
        platform = self._folder.manifest["made_for"]["platform"]
        for row in self._rows:
            self._alive[row["name"]] = Process(platform)
        together = [row for row in self._rows if not row["tunes"]]
        for row in together:
            self._alive[row["name"]].send(**self._request(row))
        for row in together:
            self._answered(row, loaded)
        for row in self._rows:
            if row["tunes"]:
                self._alive[row["name"]].send(**self._request(row))
                self._answered(row, loaded)
        return loaded

    def _bundles(self) -> dict[str, int]:
        """Calls between two waits, by row; asked now that no other row is being loaded."""
        calls = {}
        for name in list(self._alive):
            try:
                run = self._alive[name].ask(_ANSWER_SECONDS, do="run", calls=_TRIED)
            except Failed as failed:
                self._lose(name, str(failed))
                continue
            wanted = round(_BUNDLE_SECONDS * _TRIED / run["seconds"])
            calls[name] = min(max(1, wanted), _MOST_CALLS)
        return calls

    def _request(self, row: dict[str, Any]) -> dict[str, Any]:
        folder, size, batch = str(self._folder.path), self._step["size"], self._step["batch"]
        return {"do": "load", "folder": folder, "row": row, "size": size, "batch": batch}

    def _answered(self, row: dict[str, Any], loaded: dict[str, dict[str, Any]]) -> None:
        name = row["name"]
        # What is left for one must leave time to measure those that are there.
        seconds = self._clock.left() - (_ENERGY_SECONDS + 1) * (len(loaded) + 1)
        try:
            if seconds <= 0:
                raise Failed(_OUT_OF_TIME)
            said = self._alive[name].answer(min(seconds, row["loading_seconds"]))
        except Failed as failed:
            self._lose(name, str(failed))
            return
        loaded[name] = said
        right = "" if said["agreement"]["right"] else ", BUT ITS LOGITS ARE WRONG"
        ms = 1000 * said["call_seconds"]
        self._tell(f"  {name}: {said['loading_seconds']:.0f} s to load, about {ms:.3g} ms{right}")

    def _round(self, name: str, calls: int, found: dict[str, Any]) -> None:
        try:
            run = self._alive[name].ask(_ANSWER_SECONDS, do="run", calls=calls)
            once = self._alive[name].ask(_ANSWER_SECONDS, do="once", times=_LATENCIES)
        except Failed as failed:
            self._lose(name, str(failed))
            return
        found["seconds"].append(run["seconds"] / calls)
        if "device_seconds" in run:
            found["device_seconds"].append(run["device_seconds"] / calls)
        found["latencies"] += once["seconds"]

    def _energy(self, name: str, calls: int, found: dict[str, Any]) -> None:
        if self._clock.left() < _ENERGY_SECONDS:
            return
        request = {"do": "energy", "seconds": _ENERGY_SECONDS, "calls": calls}
        try:
            energy = self._alive[name].ask(_ANSWER_SECONDS, **request)
        except Failed as failed:
            self._lose(name, str(failed))
            return
        images = energy["calls"] * self._step["batch"]
        found["energy"] = {**energy, "joules_per_image": energy["joules"] / images}

    def _lose(self, name: str, why: str) -> None:
        self._tell(f"  {name}: not measured, {why}")
        self.missing[name] = why
        self._alive.pop(name).close()


def _summary(found: dict[str, Any], batch: int) -> dict[str, Any]:
    seconds, latencies = found["seconds"], found["latencies"]
    return {
        **found,
        "median": statistics.median(seconds),
        "quartiles": _quartiles(seconds),
        "latency": statistics.median(latencies),
        "latency_quartiles": _quartiles(latencies),
        "images_per_second": batch / statistics.median(seconds),
    }


def _quartiles(samples: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return [low, high]
