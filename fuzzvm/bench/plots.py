"""Plots of a suite's results as SVG: cost against size, time beside Spin's, runs to the first bug."""

from __future__ import annotations

import importlib.util
import io
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuzzvm.bench.result import Result, Row
from fuzzvm.files.writing import write


def missing() -> str:
    """Return '' where plots can be drawn, else what is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install matplotlib"
    return ""


def draw(results: Mapping[str, Result], folder: Path) -> list[Path]:
    """Draw what the results hold figures for, and return the files. Raises FileError."""
    makers = {"scaling": _scaling, "spin": _spin, "first-bug": _first_bug}
    drawn = []
    for name, make in makers.items():
        if name in results and results[name].rows:
            path = folder / f"{name}.svg"
            make(results[name].rows, path)
            drawn.append(path)
    return drawn


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # the same figures, the same file
    mpl.rcParams["svg.hashsalt"] = "fuzzvm"
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, which="major", alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write(path, drawn.getvalue())


def _scaling(rows: list[Row], path: Path) -> None:
    figure, axes = _axes(7, 4)
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    for family, points in families.items():
        axes.plot([p["states"] for p in points], [p["seconds"] for p in points], marker="o", label=family)
    axes.set(xscale="log", yscale="log", xlabel="states", ylabel="seconds", title="cost against size")
    axes.legend()
    _save(figure, path)


def _spin(rows: list[Row], path: Path) -> None:
    figure, axes = _axes(7, 4)
    rows = sorted(rows, key=lambda row: float(row["states"]))
    states = [row["states"] for row in rows]
    for tool, style in (("spin", "--"), ("fuzzvm", "-")):
        for mode, marker in (("default", "o"), ("every", "x")):
            whole = [row[mode][f"{tool}_whole_seconds"] for row in rows]
            axes.plot(states, whole, style, marker=marker, label=f"{tool}, {mode}")
    axes.set(xscale="log", yscale="log", xlabel="states without reduction", ylabel="seconds, whole process")
    axes.set_title("the flat model, from nothing to a verdict")
    axes.legend()
    _save(figure, path)


def _first_bug(rows: list[Row], path: Path) -> None:
    bugs = list(dict.fromkeys((row["depth"], row["bug"]) for row in rows))
    places = {bug: place for place, (_, bug) in enumerate(bugs)}
    figure, axes = _axes(max(7, len(bugs) * 0.4), 5)
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    for number, engine in enumerate(engines):
        own = [row for row in rows if row["engine"] == engine]
        across = [places[row["bug"]] + (number - len(engines) / 2) * 0.12 for row in own]
        medians = [row["median"] for row in own]
        above = [row["p95"] - row["median"] for row in own]
        axes.errorbar(across, medians, yerr=[[0] * len(own), above], fmt="o", markersize=4, label=engine)
    axes.set(yscale="log", ylabel="runs to the first bug: median, 95th percentile")
    axes.set_xticks(range(len(bugs)), [f"{bug} ({depth})" if depth else bug for depth, bug in bugs], rotation=90)
    axes.set_xlim(-1, len(bugs))
    figure.legend(loc="outside upper center", ncols=len(engines))
    _save(figure, path)
