"""Kill, misuse and damage runs, and count what is lost: python tools/stress.py --minutes 60."""

from stressing.cli import main

if __name__ == "__main__":
    main()
