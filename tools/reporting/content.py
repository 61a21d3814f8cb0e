"""All that a report says, before it becomes a page, text or data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evidence import naming
from evidence.catalogue import TASKS, Catalogue, tables
from evidence.folders import Skipped, read_all
from keepbench.paper import COSTS, FIGURES, TABLES, Cell, Figure, Table
from reporting import costs, errata
from reporting.claims import CLAIMS
from reporting.costs import CostView
from reporting.errata import Erratum
from reporting.results import CellView, ClaimView, Measured, Results
from reporting.summary import Comparison, headline, summarise
from reporting.trials import TrialView, read_trials

Rows = tuple[tuple[str, tuple[CellView | None, ...]], ...]


@dataclass(frozen=True)
class Section:
    """Base of tables and figures.

    Attributes:
        name: as "Table 1".
        title: what it shows.
        command: that runs what it needs.
        claims: of the paper about it, with verdicts.
        errata: about it.
    """

    name: str
    title: str
    command: str
    claims: tuple[ClaimView, ...]
    errata: tuple[Erratum, ...]

    @property
    def anchor(self) -> str:
        """For links within the page."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True)
class TableView:
    """A table: blocks of columns and rows, and experiments beside the paper's."""

    section: Section
    task: str
    blocks: tuple[tuple[tuple[str, ...], Rows], ...]
    further: tuple[CellView, ...]

    @property
    def done(self) -> tuple[int, int]:
        """How many of the paper's cells are run at full budget, and how many there are."""
        cells = [c for _, rows in self.blocks for _, cells in rows for c in cells if c]
        return sum(cell.full is not None for cell in cells), len(cells)

    def cells(self) -> list[tuple[str, str, CellView]]:
        """Row name, column name and cell."""
        placed = [
            (name, column, cell)
            for columns, rows in self.blocks
            for name, cells in rows
            for column, cell in zip(columns, cells, strict=True)
            if cell is not None
        ]
        return [*placed, *((cell.experiment, "further", cell) for cell in self.further)]


@dataclass(frozen=True)
class PartView:
    """One part of a figure: its points, the dashed baseline, training accuracy if it is drawn."""

    figure: Figure
    points: tuple[tuple[float, CellView], ...]
    train: tuple[tuple[float, CellView], ...]
    baseline: CellView | None


@dataclass(frozen=True)
class FigureView:
    """A figure of the paper."""

    section: Section
    parts: tuple[PartView, ...]

    @property
    def done(self) -> tuple[int, int]:
        """How many of the points are run at full budget, and how many there are."""
        cells = [cell for part in self.parts for _, cell in part.points]
        return sum(cell.full is not None for cell in cells), len(cells)


@dataclass(frozen=True)
class RunsView:
    """An experiment's runs of one budget: a row of the table of runs."""

    task: str
    experiment: str
    measured: Measured

    @property
    def name(self) -> str:
        """The arm in words."""
        return naming.arm(self.measured.settings)

    @property
    def place(self) -> str:
        """Data and network in words."""
        return ", ".join(naming.place(self.measured.settings))


@dataclass(frozen=True)
class Report:
    """Everything."""

    results: Results
    tables: tuple[TableView, ...]
    figures: tuple[FigureView, ...]
    costs: tuple[tuple[Section, CostView], ...]
    comparisons: tuple[Comparison, ...]
    trials: tuple[TrialView, ...]
    runs: tuple[RunsView, ...]
    others: dict[str, tuple[CellView, ...]]
    skipped: tuple[Skipped, ...]
    errata: tuple[Erratum, ...]

    @property
    def asked(self) -> dict[str, list[TrialView]]:
        """Trials by what they ask: a section each."""
        found = {"Does keeping help?": False, "Which arm is better?": True}
        asked = {title: [t for t in self.trials if t.own == own] for title, own in found.items()}
        return {title: trials for title, trials in asked.items() if trials}

    @property
    def headline(self) -> str:
        """The answer in a sentence and numbers: that of trials, if there are any."""
        return " ".join(self.answers) or self.counts

    @property
    def answers(self) -> list[str]:
        """Verdicts of trials with Keep, or else of the user's own arms."""
        kept = [each for each in self.trials if each.keeps]
        if len(kept) == 1:
            return [kept[0].sentence]
        told = kept or [each for each in self.trials if each.own and each.findings]
        return [f"On {each.place}: {each.sentence}" for each in told]

    @property
    def counts(self) -> str:
        """How many comparisons there are beside trials, and how many are decided."""
        return headline(list(self.comparisons))

    @property
    def numbered(self) -> list[tuple[Section, TableView | CostView]]:
        """Tables 1 to 11 in their order."""
        found: list[tuple[Section, TableView | CostView]] = [*self.costs]
        found += [(view.section, view) for view in self.tables]
        return sorted(found, key=lambda pair: int(pair[0].name.split()[1]))

    @property
    def claims(self) -> list[ClaimView]:
        """All claims in the order of the page."""
        sections = [view.section for view in self.tables]
        sections += [view.section for view in self.figures]
        return [claim for section in sections for claim in section.claims]

    @property
    def run_count(self) -> int:
        """Finished runs."""
        return len(self.results.all())


def _section(
    name: str, title: str, command: str, results: Results, found: list[Erratum]
) -> Section:
    claims = tuple(results.claim(claim) for claim in CLAIMS if claim.where == name)
    return Section(name, title, command, claims, tuple(errata.about(found, name)))


def _table(table: Table, results: Results, found: list[Erratum]) -> TableView:
    blocks = tuple(
        (
            block.columns,
            tuple(
                (name, tuple(results.cell(table.task, c) if c else None for c in cells))
                for name, cells in block.rows
            ),
        )
        for block in table.blocks
    )
    placed = {cell.experiment for _, _, cell in table.cells()}
    further = tuple(
        results.cell(table.task, Cell("", name))
        for name in results.catalogue.of_table(table.number)
        if name not in placed
    )
    command = f"python tools/run_table.py {table.number}"
    section = _section(f"Table {table.number}", table.title, command, results, found)
    return TableView(section, table.task, blocks, further)


def _part(figure: Figure, results: Results) -> PartView:
    def cells(metric: str = "") -> tuple[tuple[float, CellView], ...]:
        shown = [
            (x, Cell("" if metric else c.paper, c.experiment, metric)) for x, c in figure.points
        ]
        return tuple((x, results.cell("classification", cell)) for x, cell in shown)

    baseline = results.cell("classification", figure.baseline) if figure.baseline else None
    return PartView(figure, cells(), cells("train_accuracy") if figure.train else (), baseline)


def _figure(number: str, results: Results, found: list[Erratum]) -> FigureView:
    titles = {
        "2": "Training and test accuracy by the strength of the augmentation",
        "3": "Test accuracy by the threshold tau",
    }
    parts = [figure for figure in FIGURES.values() if figure.number[:-1] == number]
    command = "; ".join(f"python tools/run_table.py {part.number}" for part in parts)
    section = _section(f"Figure {number}", titles[number], command, results, found)
    return FigureView(section, tuple(_part(part, results) for part in parts))


def _unplaced(results: Results) -> dict[str, tuple[CellView, ...]]:
    """By task, experiments that have runs but no place in a table or figure."""
    found = {
        TASKS[task].title: tuple(
            results.cell(task, Cell("", name))
            for name, each in package.experiments.items()
            if results.groups(task, name) and not set(tables(each)) - {"control", "small"}
        )
        for task, package in results.catalogue.packages.items()
    }
    return {title: cells for title, cells in found.items() if cells}


def _runs(results: Results) -> list[RunsView]:
    return [
        RunsView(task, name, measured)
        for task, package in results.catalogue.packages.items()
        for name in package.experiments
        for measured in results.measured(task, name)
    ]


def build(paths: Iterable[Path], catalogue: Catalogue) -> Report:
    """Read everything at or below `paths`: folders of runs, and files of costs.

    Raises:
        ValueError: A path is not there.
    """
    given = list(paths)
    runs, skipped = read_all([path for path in given if not path.is_file()], catalogue)
    cost_rows, broken = costs.read_all(given)
    results, found = Results(catalogue, runs), errata.read()
    trials, unread = read_trials(path for path in given if path.is_dir())
    return Report(
        results,
        tuple(_table(table, results, found) for table in TABLES.values()),
        tuple(_figure(number, results, found) for number in ("2", "3")),
        tuple(
            (
                _section(f"Table {number}", view.costs.title, view.command, results, found),
                view,
            )
            for number in COSTS
            for view in [costs.view(number, cost_rows)]
        ),
        tuple(summarise(results)),
        tuple(trials),
        tuple(_runs(results)),
        _unplaced(results),
        (*skipped, *unread, *broken),
        tuple(errata.general(found)),
    )
