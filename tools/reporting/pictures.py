"""The report's plots, made from its content; what was not run is not drawn."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from evidence import naming
from evidence.catalogue import is_keep, plain_twins
from evidence.folders import FinishedRun, Group, curves
from evidence.plots import training
from reporting import plots
from reporting.content import FigureView, PartView, TableView
from reporting.plots import Dot, Series, Timed
from reporting.results import Results


def table_plots(view: TableView, results: Results) -> list[Markup]:
    """A dot plot for each figure of a table (as accuracy and seconds)."""
    package = results.catalogue.packages.get(view.task)
    if package is None or not view.done[0]:
        return []
    metrics: dict[str, list[Dot]] = {}
    for name, column, cell in view.cells():
        if column == "further" and not cell.measured:
            continue
        label = cell.experiment if column == "further" else f"{name}, {column.split(':')[0]}"
        dot = Dot(label, cell.printed, cell.measured, "keep" in cell.experiment)
        metrics.setdefault(cell.metric, []).append(dot)
    title = f"{view.section.name}: {view.section.title}"
    names = {
        "": package.task.label,
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
    """The parts of Figure 2 or 3 that have runs."""
    return [_sweep(p) for p in view.parts if any(cell.measured for _, cell in p.points)]


def _settings(runs: dict[int, FinishedRun]) -> naming.Settings:
    return next(iter(runs.values())).settings


def _place(runs: dict[int, FinishedRun], group: Group) -> str:
    """Data, network and budget of a group's runs, in words."""
    budget = [] if group.label == "small" else [group.label]
    return ", ".join([*naming.place(_settings(runs)), *budget])


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


def curve_plots(results: Results) -> list[Markup]:
    """A plot for each family of experiments and group of runs."""
    found: list[Markup] = []
    for task, package in results.catalogue.packages.items():
        metric, label = package.task.metric, package.task.label
        for names in families(results, task).values():
            places: dict[str, list[tuple[str, list[tuple[float, float]]]]] = {}
            for name in names:
                for group, runs in results.groups(task, name).items():
                    if points := _mean_curve(runs.values(), metric):
                        text = f"{naming.arm(_settings(runs))}, n = {len(runs)}"
                        places.setdefault(_place(runs, group), []).append((text, points))
            for title, lines in places.items():
                found.append(training(f"curve-{len(found)}", title, label, lines))
    return found


def time_plots(results: Results) -> list[Markup]:
    """Accuracy against training time: runs on one data set, budget and machine in each plot."""
    found: list[Markup] = []
    for task, package in results.catalogue.packages.items():
        places: dict[str, list[Timed]] = {}
        for name, each in package.experiments.items():
            for group, runs in results.groups(task, name).items():
                (measured,) = (m for m in results.measured(task, name) if m.budget == group.label)
                if measured.minutes is None or len(measured.hardware) > 1:
                    continue
                where = f"{_place(runs, group)}, {measured.hardware[0]}"
                arm, keep = naming.arm(measured.settings), is_keep(each.config)
                places.setdefault(where, []).append((arm, measured.minutes, measured, keep))
        for title, points in places.items():
            if len(points) > 1:
                key = f"time-{task}-{len(found)}"
                found.append(plots.scatter(key, title, package.task.label, points))
    return found


def curves_and_times(results: Results) -> dict[str, list[Markup]]:
    """Plots of all runs, by what they show."""
    shown = {
        "Accuracy against training time (green: Keep arms)": time_plots(results),
        "Training: means over seeds, on the test set": curve_plots(results),
    }
    return {title: drawn for title, drawn in shown.items() if drawn}
