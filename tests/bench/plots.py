"""The plots, as SVG."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.report import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

SIZE_INCHES: Final = (9, 4)
BESIDE: Final = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "fontsize": "small"}


def draw(folder: Path, results: dict[str, Any]) -> None:
    """One SVG for each bench that was run and has something to show."""
    # The same data gives the same bytes.
    mpl.rcParams["svg.hashsalt"] = "teller"
    mpl.rcParams["svg.fonttype"] = "none"
    benches = results["benches"]
    plots: dict[str, tuple[str, Callable[[Axes, dict[str, Any]], None]]] = {
        "throughput": ("throughput", _throughput),
        "latency": ("throughput", _latency),
        "ledger-size": ("large-ledger", _ledger_size),
        "goodput": ("overload", _goodput),
    }
    for name, (bench, plot) in plots.items():
        if bench in benches:
            figure = Figure(figsize=SIZE_INCHES, layout="constrained")
            axes = figure.subplots()
            axes.grid(alpha=0.3)
            plot(axes, benches[bench]["data"])
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _throughput(axes: Axes, data: dict[str, Any]) -> None:
    for name, rows in _by_contestant(data).items():
        many = [str(row["connections"]) for row in rows]
        axes.plot(many, [statistics.median(row["per_s"]) for row in rows], "o-", label=TITLES[name])
    axes.set(xlabel="connections", ylabel="deposits a second", yscale="log")
    axes.legend(**BESIDE)


def _latency(axes: Axes, data: dict[str, Any]) -> None:
    for name, rows in _by_contestant(data).items():
        row = next((row for row in rows if row["connections"] == 64), None)
        if row is not None:
            percentiles = row["percentiles_ms"]
            axes.plot(list(percentiles), list(percentiles.values()), "o-", label=TITLES[name])
    axes.set(xlabel="percentile, at 64 connections", ylabel="milliseconds", yscale="log")
    axes.legend(**BESIDE)


def _ledger_size(axes: Axes, data: dict[str, Any]) -> None:
    names = list(reversed(data["per_s"]))  # the empty one first
    medians = [statistics.median(data["per_s"][name]) for name in names]
    spread = [
        [middle - min(data["per_s"][name]) for name, middle in zip(names, medians, strict=True)],
        [max(data["per_s"][name]) - middle for name, middle in zip(names, medians, strict=True)],
    ]
    axes.errorbar(names, medians, yerr=spread, fmt="o-", capsize=4)
    axes.set(ylabel="deposits a second", xlabel="movements in the ledger", ylim=(0, None))


def _goodput(axes: Axes, data: dict[str, Any]) -> None:
    offers = sorted(data["offers"], key=lambda one: one["rate"])
    rates = [one["rate"] for one in offers]
    axes.plot(rates, [one["goodput_per_s"] for one in offers], "o", label="Teller, a slow disk")
    axes.plot(rates, rates, "--", label="all that is offered")
    best = max(one["goodput_per_s"] for one in offers)
    axes.set(xlabel="offered a second", ylabel="applied a second", ylim=(0, 1.3 * best))
    axes.legend(**BESIDE)


def _by_contestant(data: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in data["table"]:
        rows.setdefault(row["contestant"], []).append(row)
    return rows
