"""`make sweep`."""

from sweeping.cli import main

main()
