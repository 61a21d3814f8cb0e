"""The parts that every task of the benchmark trains and is told apart by."""
