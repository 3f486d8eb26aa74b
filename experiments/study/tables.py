"""A study's results as a table in Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.study import paper
from experiments.study.report import (
    compared_row,
    finished_runs,
    milliseconds,
    reference_row,
    relative_time,
    score_differences,
    spread,
    timed_seeds,
)
from experiments.timing import machine_text

_TITLES = {"dice": "Dice", "iou": "IoU", "f1": "F1"}
_ABSENT = "-"

type _Column = tuple[str, Callable[[str, Mapping[str, Any]], str]]


def table(results: Mapping[str, Any]) -> str:
    """Lay results out.

    Args:
      results: content of ``results.json``.

    Returns:
      Markdown: what was done, a line a row (mean ± standard deviation over seeds), remarks.
    """
    columns = _columns(results)
    lines = [f"# {results['title']}", "", *_heading(results), ""]
    lines += ["| " + " | ".join(title for title, _ in columns) + " |"]
    lines += ["|" + "---|" * len(columns)]
    for name, row in results["rows"].items():
        lines.append("| " + " | ".join(cell(name, row) for _, cell in columns) + " |")
    lines += ["", *_remarks(results)]
    return "\n".join(lines) + "\n"


def _heading(results: Mapping[str, Any]) -> list[str]:
    lines = ["```sh", *results["commands"], "```", ""] if results["commands"] else []
    machines = {
        machine_text(run["machine"]): None
        for row in results["rows"].values()
        for run in finished_runs(row)
    }
    lines += [f"Trained on {'; '.join(machines)}."] if machines else ["Nothing is trained yet."]
    latency = results["latency"]
    if latency is not None and latency["rows"]:
        engines = {engine for row in latency["rows"].values() for engine in row["engines"]}
        lines.append(
            f"Packed networks of {timed_seeds(results)} timed on "
            f"{machine_text(latency['machine'])}, engine {' and '.join(sorted(engines))} "
            f"(bitsliced with {latency['instructions']}), one image of "
            f"{latency['size']}x{latency['size']}: medians of {latency['rounds']} interleaved "
            "rounds; and of the ratio, in each round, to the time of "
            f"{results['rows'][compared_row(results)]['label']}.{_load(latency)}"
        )
    if results["validation_images"] is not None:
        several = any(len(finished_runs(row)) > 1 for row in results["rows"].values())
        lines.append(
            f"Scores of {results['validation_images']} validation images of {results['dataset']}: "
            + ("mean over seeds ± standard deviation of a sample." if several else "one seed.")
        )
    return lines


def _load(latency: Mapping[str, Any]) -> str:
    """How far milliseconds are to be trusted; older times do not tell."""
    if "load_before" not in latency:
        return ""
    return (
        f" Load average {latency['load_before']:.1f} before, {latency['busy_threads']:.2f} threads "
        "busy while timing."
    )


def _columns(results: Mapping[str, Any]) -> list[_Column]:
    rows = results["rows"].values()
    columns: list[_Column] = [("network", lambda _, row: row["label"])]
    columns += [(title, _score(score)) for score, title in _TITLES.items()]
    columns.append(("seeds", lambda _, row: str(len(finished_runs(row)))))
    if _references(results):
        columns.append(("difference", lambda name, _: _difference(results, name)))
    if any("density" in run for row in rows for run in finished_runs(row)):
        columns.append(("non-zero weights", lambda _, row: _density(row)))
    if any(milliseconds(results, name) is not None for name in results["rows"]):
        columns.append(("ms", lambda name, _: _optional(milliseconds(results, name), "#.3g")))
        columns.append(("ratio", lambda name, _: _optional(relative_time(results, name), ".2f")))
    columns.append(("minutes", lambda _, row: _minutes(row)))
    if any(row["paper"] for row in rows):
        columns += [(f"paper's {_TITLES[score]}", _paper(score)) for score in paper.SCORES]
    return columns


def _score(name: str) -> Callable[[str, Mapping[str, Any]], str]:
    def cell(_: str, row: Mapping[str, Any]) -> str:
        values = [run["scores"][name] for run in finished_runs(row)]
        if not values:
            if name != "dice":
                return _ABSENT
            return "not finished" if any("failed" in run for run in row["runs"]) else "not run"
        return _spread(values, ".3f")

    return cell


def _spread(values: Sequence[float], form: str) -> str:
    mean, deviation = spread(values)
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _references(results: Mapping[str, Any]) -> list[str]:
    """The rows that some other row's Dice can be compared with."""
    found = {
        reference_row(results, name)
        for name in results["rows"]
        if score_differences(results, name, "dice") and reference_row(results, name) != name
    }
    return [name for name in results["rows"] if name in found]


def _difference(results: Mapping[str, Any], name: str) -> str:
    values = score_differences(results, name, "dice")
    if not values:
        return _ABSENT
    if reference_row(results, name) == name:
        return "reference"
    seeds = len(values)
    fewer = seeds < len(finished_runs(results["rows"][name]))
    return _spread(values, "+z.3f") + f" ({seeds} seed{'s' * (seeds > 1)})" * fewer


def _paper(name: str) -> Callable[[str, Mapping[str, Any]], str]:
    return lambda _, row: _optional(row["paper"] and row["paper"][name], ".3f")


def _density(row: Mapping[str, Any]) -> str:
    values = [run["density"] for run in finished_runs(row) if "density" in run]
    return f"{100 * spread(values)[0]:.1f} %" if values else _ABSENT


def _minutes(row: Mapping[str, Any]) -> str:
    values = [run["minutes"] for run in finished_runs(row)]
    return f"{spread(values)[0]:.1f}" if values else _ABSENT


def _optional(value: float | None, form: str) -> str:
    return _ABSENT if value is None else f"{value:{form}}"


def _remarks(results: Mapping[str, Any]) -> list[str]:
    lines = [f"- {remark}" for remark in results["remarks"]]
    if references := _references(results):
        labels = "; ".join(results["rows"][name]["label"] for name in references)
        lines.append(
            f"- Difference: the row's Dice minus its reference's ({labels}), seed by seed, so over "
            "the seeds that both have; their number stands beside it where the row has more."
        )
    for row in results["rows"].values():
        for run in row["runs"]:
            if "failed" in run:
                lines.append(f"- {row['label']}, seed {run['seed']}: {run['failed']}")
    for score, title in _TITLES.items():
        if definition := results["definitions"].get(score):
            lines.append(f"- {title}: {definition}")
    if any(row["paper"] for row in results["rows"].values()):
        lines.append(
            "- The paper's numbers are those of its Table 1, of networks of width 64 trained by "
            "its own recipe on images of its own size and split; docs/paper.md lists what differs."
        )
    lines.append(
        "- Minutes are those of the updates, their compilation included, evaluations left out."
    )
    return lines
