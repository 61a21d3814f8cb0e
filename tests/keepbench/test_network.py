from __future__ import annotations

import pytest
import torch
from torch import nn

from keepbench.network import (
    Joined,
    check_logits,
    compiled,
    load_optimizer,
    load_whole,
    make_average,
    make_optimizer,
)


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_norms_and_biases_decay_only_if_asked() -> None:
    for decay, expected in ((True, 0.5), (False, 0.0)):
        made = make_optimizer([small()], lr=0.1, weight_decay=0.5, norm_decay=decay)
        weights, rest = made.param_groups
        assert weights["weight_decay"] == 0.5 and len(weights["params"]) == 1
        assert rest["weight_decay"] == expected and len(rest["params"]) == 3


def test_optimisers_by_name() -> None:
    sgd = make_optimizer([small()], lr=0.1, weight_decay=0.0)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.9, True)
    plain = make_optimizer([small()], lr=0.1, momentum=0.0, weight_decay=0.0)
    assert not plain.defaults["nesterov"]
    adam = make_optimizer([small(), small()], kind="adamw", lr=0.1, weight_decay=0.0)
    assert isinstance(adam, torch.optim.AdamW)
    assert [len(group["params"]) for group in adam.param_groups] == [2, 6]


def test_an_average_holds_batchnorm_statistics() -> None:
    """After two steps of equal shares: half the first step's values and half the second's."""
    model = small()
    average = make_average(model, 0.5)
    states = []
    for _ in range(2):
        model(torch.randn(4, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(model)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    found = average.module.state_dict()
    for name in states[0].keys() - {"2.num_batches_tracked"}:
        torch.testing.assert_close(found[name], (states[0][name] + states[1][name]) / 2)


def test_logits_are_checked_on_every_size() -> None:
    class Narrow(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(images.shape))
            return self.layer(images.flatten(1))

    seen: list[tuple[int, ...]] = []
    model = Narrow().train()
    model.layer = nn.Linear(3 * 4 * 4, 10)
    question = {"channels": 3, "image_size": (4, 4)}
    check_logits(model, "narrow", **question, num_classes=10)
    assert seen == [(1, 3, 4, 4)] and model.training
    with pytest.raises(ValueError, match=r"narrow gives \(1, 10\), not logits \(1, 7\)"):
        check_logits(model, "narrow", **question, num_classes=7)
    with pytest.raises(ValueError, match="narrow does not take images of 2x2 pixels: mat1"):
        check_logits(model, "narrow", **question, num_classes=10, scales=(0.5,))


def test_a_module_beside_the_model_trains_with_it() -> None:
    model, beside = small(), nn.Linear(1, 1)
    joined = Joined(model, beside)
    images = torch.randn(4, 3)
    assert torch.equal(joined(images), model(images))
    assert len(list(joined.parameters())) == len(list(model.parameters())) + 2
    assert len(list(Joined(model, None).parameters())) == len(list(model.parameters()))


def test_code_is_compiled_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        made.append(inputs[0].shape)
        return graph

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: real(f, backend=backend, **how))
    function = compiled(lambda x: x + 1)
    for length in (5, 3, 5, 3, 4):
        assert torch.equal(function(torch.zeros(length)), torch.ones(length))
    assert made == [(5,), (3,), (4,)]


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb", "muon", "adafactor", "novograd"])
def test_an_optimisers_state_comes_back(kind: str) -> None:
    def trained() -> torch.optim.Optimizer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 2))
        optimizer = make_optimizer([model], kind=kind, lr=0.1, weight_decay=0.1)
        model(torch.ones(2, 3, 4, 4)).sum().backward()
        optimizer.step()
        return optimizer

    state, fresh = trained().state_dict(), trained()
    load_optimizer(fresh, state)
    assert str(fresh.state_dict()) == str(state)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({0: {"momentum_buffer": torch.ones(3)}}, "momentum_buffer"),
        ({0: {"momentum_buffer": None}}, "momentum_buffer"),
        ({0: {"a": 1}}, "a, momentum_buffer"),
        ({0: {}}, "momentum_buffer"),
    ],
)
def test_an_optimisers_state_of_another_kind_is_refused(change: dict, wrong: str) -> None:
    model = nn.Linear(2, 1)
    optimizer = make_optimizer([model], lr=0.1, weight_decay=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for bad, names in (
        ({**state, "state": state["state"] | change}, wrong),
        ({**state, "param_groups": [g | {"lr": "x"} for g in state["param_groups"]]}, "lr"),
        ({**state, "param_groups": [g | {"momentum": 9} for g in state["param_groups"]]}, "momen"),
    ):
        with pytest.raises(ValueError, match=f"no usable {names}"):
            load_optimizer(make_optimizer([model], lr=0.1, weight_decay=0.1), bad)


def test_weights_that_lack_a_count_are_refused() -> None:
    model = small()
    state = {name: value for name, value in model.state_dict().items() if "num" not in name}
    with pytest.raises(ValueError, match="its weights have no 2.num_batches_tracked"):
        load_whole(model, state)
