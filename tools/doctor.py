"""Examine one's own model: python tools/doctor.py MODULE:FACTORY [--size 224]."""

from checkup.cli import main

if __name__ == "__main__":
    main()
