"""Does keeping help on these images? python tools/run_trial.py DATA --method METHOD."""

from trialling.cli import main

if __name__ == "__main__":
    main()
