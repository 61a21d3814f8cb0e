"""The one place where torchreid comes in."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def torchreid() -> ModuleType:
    """Import torchreid's package of datasets, samplers, losses and metrics (`torchreid.reid`).

    Raises:
        ValueError: It, or what it imports, is not installed.
    """
    with warnings.catch_warnings():
        # Its ranking in Cython is in no wheel, and not used here.
        warnings.filterwarnings("ignore", "Cython evaluation", UserWarning)
        # Escapes in its docstrings, said when Python compiles it for the first time.
        for category in (SyntaxWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", "(invalid escape|.*invalid escape)", category)
        try:
            return importlib.import_module("torchreid.reid")
        except ImportError as error:
            raise ValueError(
                f"re-identification needs torchreid and what it imports ({error}); "
                'pip install -e ".[reid]"'
            ) from None
