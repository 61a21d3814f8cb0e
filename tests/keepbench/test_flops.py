"""What a forward pass takes: fvcore's counts and torch's are one number."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from classification.models import MODELS, create_model
from keepbench.flops import _analysis, flop_table, forward_flop
from keepbench.machine import flop_per_second

PRODUCTS = ("conv", "linear", "matmul", "scaled_dot_product_attention")


@pytest.mark.parametrize(
    "name", ["resnet8", "air32_64_128", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_fvcores_and_torchs_counters_agree(name: str) -> None:
    """On convolutions and products of matrices, where fvcore counts a multiplication and an
    addition as one. torch's counter does not know a CPU's fused attention."""
    side = 32 if name in MODELS else 224
    model, image = create_model(name, 10), torch.rand(1, 3, side, side)
    unfused = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused:
        model(image)
    counts = _analysis(model, image).by_operator()
    assert 2 * sum(counts[each] for each in PRODUCTS) == counter.get_total_flops()
    assert forward_flop(model, image) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_table_of_a_resnet_18() -> None:
    """Its 1.82 G multiplications and 11.69 M parameters, as in the literature; no trace is left."""
    model = timm.create_model("resnet18")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lines = flop_table(model, torch.rand(1, 3, 224, 224)).splitlines()
    whole = next(line for line in lines if line.startswith("| model "))
    assert "11.69M" in whole and "1.819G" in whole
    assert any(line.startswith("| layer4 ") for line in lines)
    assert lines[-1].startswith("by operator: conv 99.7%")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_machines_speed_is_a_number() -> None:
    assert 1e6 < flop_per_second(torch.device("cpu")) < 1e16
