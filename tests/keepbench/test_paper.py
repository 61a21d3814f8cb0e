from __future__ import annotations

from keepbench.paper import COSTS, FIGURES, TABLES, TIMES, figure_of, tables_of


def test_an_experiment_in_several_tables_has_one_figure() -> None:
    for table in TABLES.values():
        for row, column, cell in table.cells():
            assert cell.plain == figure_of(cell.experiment, cell.metric), (row, column)
            assert table.number in tables_of(cell.experiment).split(", ")


def test_figures_stand_with_their_experiments() -> None:
    assert figure_of("cifar10-resnet18-keep_cutout") == "96.1"
    assert tables_of("cifar10-resnet18-keep_cutout") == "1, 2"
    assert figure_of("imagenet-resnet101-keep_cutmix_low", "test_top5") == "95.2"
    assert figure_of("cifar10-wrn28_10-keep_randaugment_m15_paste8_tau0.0") == "97.3"
    assert tables_of("cifar10-wrn28_10-randaugment_m15") == "2b, 3b"
    assert figure_of("unknown") == tables_of("unknown") == ""
    assert TIMES["resnet101"] == {"plain": 68.6, "low": 83.5, "early": 82.7}


def test_every_table_and_figure_with_results_is_here() -> None:
    assert sorted({*TABLES, *COSTS}, key=int) == [str(number) for number in range(1, 12)]
    assert [*FIGURES] == ["2a", "2b", "3a", "3b"]
