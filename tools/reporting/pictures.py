"""The report's plots, made from its content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from textwrap import shorten

from markupsafe import Markup

from reporting import plots
from reporting.catalogue import is_keep, plain_twins
from reporting.content import FigureView, PartView, Report, SmallView, TableView
from reporting.folders import FinishedRun, Group, curves
from reporting.plots import Bar, Dot, Series
from reporting.results import CellView, Results
from reporting.summary import Line
from reporting.svg import COLOURS, KEEP

MOST_BARS = 60


def common(names: Iterable[str]) -> str:
    """What names begin with alike, whole words between dashes only."""
    parts = [name.split("-") for name in names]
    return "-".join(os.path.commonprefix([words[:-1] for words in parts]))


def shortened(names: list[str]) -> tuple[str, list[str]]:
    """The common beginning of names, and what is left of each."""
    start = common(names)
    return start, [name[len(start) :].lstrip("-") for name in names]


def _figure_of(cell: CellView) -> float | None:
    return float(cell.paper.split("±")[0]) if cell.paper else None


def table_plots(view: TableView, results: Results) -> list[Markup]:
    """A dot plot for each figure of a table (as accuracy and seconds)."""
    package = results.catalogue.packages.get(view.task)
    metrics: dict[str, list[Dot]] = {}
    for name, column, cell in view.cells():
        if column == "further" and not cell.measured:
            continue
        label = cell.experiment if column == "further" else f"{name}, {column.split(':')[0]}"
        keep = "keep" in cell.experiment
        metrics.setdefault(cell.metric, []).append(
            Dot(label, _figure_of(cell), cell.measured, keep)
        )
    title = f"{view.section.name}: {view.section.title}"
    headline = package.task.label if package else "%"
    names = {
        "": headline,
        "seconds": "training time per epoch, s",
        "test_top5": "top-5 accuracy, %",
    }
    return [
        plots.dots(
            f"{view.section.anchor}-{metric or 'main'}",
            title,
            names.get(metric, f"{metric}, %"),
            rows,
        )
        for metric, rows in metrics.items()
    ]


def _sweep(part: PartView) -> Markup:
    number = part.figure.number
    series = [Series("test", part.points, part.baseline)]
    if part.train:
        series.append(Series("training", part.train))
    return plots.sweep(f"figure-{number}", f"{number}: {part.figure.title}", part.figure.x, series)


def figure_plots(view: FigureView) -> list[Markup]:
    """The parts of Figure 2 or 3."""
    return [_sweep(part) for part in view.parts]


def _bars(lines: Iterable[Line]) -> list[Bar]:
    """The lines of a forest plot."""
    bars = []
    for line in lines:
        start, (keep, other) = shortened([name for name, _ in line.finding.contrast.weights])
        name, colour = f"{start}: {keep} − {other}", KEEP if line.kind == "plain" else COLOURS[3]
        verdict, claimed = line.finding.verdict, line.finding.contrast.claimed
        if verdict.difference:
            bars.append(Bar(name, verdict.difference, colour, True, claimed))
        bars += [
            Bar(
                f"{name} ({shorten(label, 34, placeholder=' …')})",
                other_verdict.difference,
                colour,
                False,
            )
            for label, other_verdict in line.finding.indications.items()
            if other_verdict.difference
        ]
    return bars


def summary_plots(report: Report) -> dict[str, list[Markup]]:
    """Differences to the plain twins and to the controls: full budgets, and all others apart."""
    titles = {"plain": "Keep minus its plain twin", "control": "Keep minus a control"}
    found: dict[str, list[Markup]] = {}
    for kind, title in titles.items():
        bars = _bars(line for line in report.lines if line.kind == kind)
        for full, budget in ((True, "full budget"), (False, "short or changed budgets")):
            shown = [bar for bar in bars if bar.full == full][:MOST_BARS]
            if shown:
                name, label = f"summary-{kind}-{budget.split()[0]}", f"{title}, points ({budget})"
                found.setdefault(kind, []).append(plots.forest(name, title, label, shown))
    return found


def small_plots(view: SmallView) -> list[Markup]:
    """All differences of a task's small runs."""
    bars = _bars(view.lines)[:MOST_BARS]
    title = f"Small runs: {view.title}, Keep minus its twin and controls"
    return [plots.forest(f"small-{view.task}", title, "difference, points", bars)] if bars else []


def families(results: Results, task: str) -> dict[str, list[str]]:
    """Experiments with runs, together with their plain twin."""
    experiments = results.catalogue.packages[task].experiments
    twins = plain_twins(experiments)
    found: dict[str, list[str]] = {}
    for name in experiments:
        if results.groups(task, name):
            found.setdefault(twins.get(name, name), []).append(name)
    return {plain: sorted(names, key=lambda n: n != plain) for plain, names in found.items()}


def _mean_curve(runs: Iterable[FinishedRun], metric: str) -> list[tuple[float, float]]:
    """The mean over seeds after each epoch that all of them have."""
    by_epoch: dict[float, list[float]] = {}
    count = 0
    for run in runs:
        count += 1
        for epoch, value in curves(run, metric):
            by_epoch.setdefault(epoch, []).append(value)
    whole = {e: v for e, v in sorted(by_epoch.items()) if len(v) == count}
    return [(epoch, sum(values) / count) for epoch, values in whole.items()]


def curve_plots(results: Results, *, full: bool) -> list[Markup]:
    """A plot for each family of experiments and group of runs, of full budgets or of others."""
    found: list[Markup] = []
    for task, package in results.catalogue.packages.items():
        metric, label = package.task.metric, package.task.label
        for plain, names in families(results, task).items():
            groups: dict[Group, list[tuple[str, list[tuple[float, float]]]]] = {}
            for name in names:
                for group, runs in results.groups(task, name).items():
                    points = _mean_curve(runs.values(), metric)
                    if points and group.full == full:
                        text = f"{name.split('-', 1)[-1]}, n = {len(runs)}"
                        groups.setdefault(group, []).append((text, points))
            for group, lines in groups.items():
                title = f"{plain} and its Keep arms, {group.label}"
                name = f"curve-{'full' if full else 'short'}-{len(found)}"
                found.append(plots.training(name, title, label, lines))
    return found


def time_plots(results: Results) -> list[Markup]:
    """Accuracy against training time: runs of one dataset, budget and machine in each plot."""
    found: list[Markup] = []
    for task, package in results.catalogue.packages.items():
        places: dict[tuple[str, str, str], list] = {}
        for name, each in package.experiments.items():
            for group, runs in results.groups(task, name).items():
                seconds = [s for run in runs.values() if (s := run.total_seconds())]
                measured = [m for m in results.measured(task, name) if m.budget == group.label]
                if not seconds or not measured or len(measured[0].hardware) > 1:
                    continue
                where = (name.split("-")[0], group.label, measured[0].hardware[0])
                minutes = sum(seconds) / len(seconds) / 60
                places.setdefault(where, []).append(
                    (name, minutes, measured[0], is_keep(each.config))
                )
        for (dataset, label, hardware), points in places.items():
            start, names = shortened([name for name, *_ in points])
            if len(points) < 2:
                continue
            shown = [(n, *rest) for n, (_, *rest) in zip(names, points, strict=True)]
            title = f"{start or dataset}, {label}, {hardware}"
            key = f"time-{task}-{len(found)}"
            found.append(plots.scatter(key, title, package.task.label, shown))
    return found
