"""A training image as the network saw it: python tools/replay.py RUN --epoch E --index I."""

from replaying.cli import main

if __name__ == "__main__":
    main()
