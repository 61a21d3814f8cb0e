"""Report on run folders of all tasks: python tools/report.py RUNS ... --out report/."""

from reporting.cli import main

if __name__ == "__main__":
    main()
