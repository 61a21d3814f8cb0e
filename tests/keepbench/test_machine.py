"""What is said of the machine."""

from __future__ import annotations

import pytest
import torch

from keepbench.machine import bfloat16


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "(AMX, AVX-512): --bf16 --channels-last pay"),
        ({"bf16": True, "neon": True}, "(Arm's)"),
        ({"avx2": True, "avx512_bf16": False}, "--bf16 does not"),
    ],
)
def test_what_a_processor_has_is_said(
    found: dict[str, bool], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert said in bfloat16()


def test_a_processor_that_does_not_tell_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert "measure --bf16 first" in bfloat16()
