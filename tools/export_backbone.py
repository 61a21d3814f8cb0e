"""Export a backbone: python tools/export_backbone.py CHECKPOINT --to detectron2 --out FILE.pkl."""

from detection.export_cli import main

if __name__ == "__main__":
    main()
