"""Run all that a table or figure needs: python tools/run_table.py 1 --budget smoke."""

from queueing.cli import main

if __name__ == "__main__":
    main()
