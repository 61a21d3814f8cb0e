"""`make stress`."""

from stressing.cli import main

main()
