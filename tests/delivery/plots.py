"""The plot of releases beside each other: weights, requests and errors over time, as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

SIZE_INCHES: Final = (10, 7)
WINDOW_S: Final = 4
SHOWN: Final = {"good": "A good release", "errors": "A release that answers 500"}
_COLOURS: Final = {"stable": "tab:blue", "canary": "tab:orange"}


def draw(folder: Path, results: dict[str, Any]) -> None:
    """A column for each release that is shown, if all of them were run."""
    scenarios = results["scenarios"]
    if any(name not in scenarios or not scenarios[name]["data"] for name in SHOWN):
        return
    # The same data gives the same bytes.
    mpl.rcParams["svg.hashsalt"] = "teller"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    grid = figure.subplots(3, len(SHOWN), sharex="col", sharey="row", squeeze=False)
    for column, (name, title) in enumerate(SHOWN.items()):
        data = scenarios[name]["data"]
        above, middle, below = (grid[row][column] for row in range(3))
        above.set_title(title)
        _weights(above, data)
        _rates(middle, data["series"]["requests"], "requests a second")
        _rates(below, data["series"]["errors"], "5xx a second")
        failed = _mean(data["series"]["clients_failed"])
        below.plot(range(len(failed)), failed, ":", color="black", label="seen by clients")
        below.legend()
        below.set_xlabel("seconds")
        for axes in (above, middle, below):
            axes.grid(alpha=0.3)
            axes.set_xlim(0, data["duration_s"])
            caught = data["told"]["caught_by"]
            if caught:
                at_s = data["series"]["weights"][-1][0]
                axes.axvline(at_s, color="tab:red", linestyle="--", linewidth=1)
        if caught:
            above.annotate(f"aborted by {caught}  ", (at_s, 60), color="tab:red", ha="right")
    for row in grid[1:]:
        row[0].set_ylim(bottom=0)  # of the whole row, now that all of it is drawn
    figure.savefig(folder / "releases.svg", metadata={"Date": None})


def _mean(per_second: list[int]) -> list[float]:
    """Over the seconds that Prometheus' rates are taken over."""
    return [
        sum(per_second[max(0, second - WINDOW_S + 1) : second + 1]) / WINDOW_S
        for second in range(len(per_second))
    ]


def _weights(axes: Axes, data: dict[str, Any]) -> None:
    """What each version is to get, in percent."""
    points = [(0.0, 0), *((at_s, percent) for at_s, percent in data["series"]["weights"])]
    points.append((data["duration_s"], points[-1][1]))
    times = [at_s for at_s, _ in points]
    canary = [percent for _, percent in points]
    axes.step(times, [100 - it for it in canary], where="post", color=_COLOURS["stable"])
    axes.step(times, canary, where="post", color=_COLOURS["canary"])
    axes.set(ylabel="weight, %", ylim=(-5, 105))


def _rates(axes: Axes, series: dict[str, list[list[float]]], label: str) -> None:
    for name, colour in _COLOURS.items():
        points = series.get(name, [])
        axes.plot([at_s for at_s, _ in points], [it for _, it in points], color=colour, label=name)
    axes.set(ylabel=label)
    axes.legend()
