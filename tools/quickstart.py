"""See KeepAugment work in two minutes: plain Cutout against KeepCutout on handwritten digits."""

from classification.quickstart import main

if __name__ == "__main__":
    main()
