"""Examine one's own model: python tools/doctor.py MODULE:FACTORY [--size 224]."""

from diagnosing.cli import main

if __name__ == "__main__":
    main()
