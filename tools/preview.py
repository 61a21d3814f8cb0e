"""Look before training: python tools/preview.py IMAGES --model NAME|CHECKPOINT [--out PAGE]."""

from previewing.cli import main

if __name__ == "__main__":
    main()
