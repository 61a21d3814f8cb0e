"""The early head by hand on tiny models, and on every kind of stage there is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from small import NUM_CLASSES, evaluating, labels, make, randn, state, timm_vit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from keepaugment import EarlyHead, GradientSaliency, KeepCutout, saliency_map


class Broken(nn.Module):
    """A layer that must never run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the network did not stop at the stage")


def three_stages(last: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Dropout(), nn.Tanh()),
        last or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, NUM_CLASSES)),
    )


IMAGES, LABELS = randn(4, 3, 10, 14), labels(4)


# By hand


def test_early_logits_by_hand() -> None:
    model = three_stages().eval()
    head = EarlyHead(model, "0", NUM_CLASSES)
    weight, bias = head.classifier.weight, head.classifier.bias
    pooled = model[0](IMAGES).mean((2, 3))
    torch.testing.assert_close(head.early_logits(IMAGES), pooled @ weight.T + bias)


def test_the_map_of_an_early_head_by_hand() -> None:
    """A 1 x 1 convolution, mean pooling and a linear layer: each pixel has gradient v W / (H W)."""
    stage = nn.Conv2d(3, 4, 1)
    model = nn.Sequential(stage, nn.ReLU(), Broken())
    head = EarlyHead(model, "0", NUM_CLASSES)
    slope = head.classifier.weight @ stage.weight[:, :, 0, 0] / (10 * 14)
    saliency = GradientSaliency(model, head=head)(IMAGES, LABELS)
    expected = slope[LABELS].abs().amax(1)[:, None, None].expand(4, 10, 14)
    torch.testing.assert_close(saliency, expected.detach())


def test_the_loss_by_hand() -> None:
    model = three_stages()
    head = EarlyHead(model, "1", NUM_CLASSES, weight=0.25)
    kept = []
    model[1].register_forward_hook(lambda stage, args, output: kept.append(output))
    model(IMAGES)
    logits = head.classifier(kept[-1].mean((2, 3)))
    torch.testing.assert_close(head.loss(LABELS), 0.25 * F.cross_entropy(logits, LABELS))
    assert EarlyHead(model, "1", NUM_CLASSES).weight == 0.3  # the paper's


def test_the_loss_takes_any_criterion() -> None:
    model = three_stages()
    head = EarlyHead(model, "0", NUM_CLASSES)
    targets = torch.full((4, NUM_CLASSES), 1 / NUM_CLASSES)
    model(IMAGES)
    soft = head.loss(targets)
    model(IMAGES)
    assert head.loss(targets, F.cross_entropy).item() == pytest.approx(soft.item())
    model(IMAGES)
    assert head.loss(targets, lambda logits, targets: logits.new_tensor(2.0)).item() == (
        pytest.approx(0.6)
    )


def test_the_loss_trains_the_head_and_the_layers_up_to_the_stage_only() -> None:
    model = three_stages()
    head = EarlyHead(model, "1", NUM_CLASSES)
    logits = model(IMAGES)
    head.loss(LABELS).backward(retain_graph=True)
    assert all(p.grad.abs().sum() > 0 for p in (*head.parameters(), *model[:2].parameters()))
    assert all(p.grad is None for p in model[2].parameters())
    F.cross_entropy(logits, LABELS).backward()  # the main loss is still there
    assert all(p.grad.abs().sum() > 0 for p in model[2].parameters())


def test_training_with_the_head_lowers_its_loss() -> None:
    model = three_stages()
    head = EarlyHead(model, "0", NUM_CLASSES)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.5)
    keep = KeepCutout(saliency=GradientSaliency(model, scale=0.5, head=head), size=2)
    losses = []
    for _ in range(30):
        logits = model(keep(IMAGES, LABELS))
        early = head.loss(LABELS)
        optimizer.zero_grad()
        (F.cross_entropy(logits, LABELS) + early).backward()
        optimizer.step()
        losses.append(early.item())
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


# The network stops at the stage


@pytest.mark.parametrize("layer", ["0", "0.1", "1", "1.2"])
def test_later_layers_do_not_run_for_a_map(layer: str) -> None:
    model = three_stages(last=Broken())
    head = EarlyHead(model, layer, NUM_CLASSES)
    assert head.early_logits(IMAGES).shape == (4, NUM_CLASSES)
    assert GradientSaliency(model, head=head)(IMAGES, LABELS).shape == (4, 10, 14)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_map_is_that_of_a_model_that_ends_there(scale: float) -> None:
    model = three_stages()
    model(2 + IMAGES)
    head = EarlyHead(model, "1", NUM_CLASSES)
    short = nn.Sequential(*model[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), head.classifier)
    saliency = GradientSaliency(model, scale=scale, head=head)(IMAGES, LABELS)
    torch.testing.assert_close(
        saliency, saliency_map(evaluating(short), IMAGES, LABELS, scale=scale)
    )
    assert saliency.shape == (4, 10, 14)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_map_of_the_head_explains_the_heads_own_logits(labelled: bool) -> None:
    model = three_stages(last=Broken())
    head = EarlyHead(model, "0", 2)
    largest = head.early_logits(IMAGES).argmax(1)
    source = GradientSaliency(model, head=head)
    if labelled:
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), found 0 to 3"):
            source(IMAGES, LABELS)
    else:
        assert torch.equal(source(IMAGES), source(IMAGES, largest))


@pytest.mark.parametrize("fails", [False, True])
def test_a_map_leaves_no_trace_in_model_or_head(fails: bool) -> None:
    model = make("features in eval")
    head = EarlyHead(model, "body", NUM_CLASSES)
    both = nn.ModuleList([model, head])
    model(IMAGES)
    before = list(state(both))
    features = head.features
    if fails:
        with pytest.raises(ValueError, match="labels"):
            GradientSaliency(model, head=head)(IMAGES, LABELS + 100)
    else:
        GradientSaliency(model, head=head)(IMAGES, LABELS)
    assert list(state(both)) == before
    assert head.features is features and not head.stopping
    model(IMAGES)  # it runs to its end again
    assert head.loss(LABELS).requires_grad


# Which features are kept


def test_only_training_passes_leave_features() -> None:
    model = three_stages()
    head = EarlyHead(model, "0", NUM_CLASSES)
    assert head.features is None  # the grey image left none
    GradientSaliency(model)(IMAGES, LABELS)  # a full map runs through the stage
    GradientSaliency(model, head=head)(IMAGES, LABELS)
    with torch.no_grad():
        model(IMAGES)
    model.eval()
    model(IMAGES)
    model.train()
    with pytest.raises(ValueError, match="no features yet: run the model in training mode"):
        head.loss(LABELS)
    model(IMAGES)
    head.loss(LABELS)
    with pytest.raises(ValueError, match="no features yet"):
        head.loss(LABELS)  # they are let go of: each pass is used once


@pytest.mark.parametrize("compiled", [False, True])
def test_a_stage_that_runs_twice_gives_loss_and_map_its_first_output(compiled: bool) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.stage(self.stage(x).tanh()).mean((2, 3))

    model = Twice()
    head = EarlyHead(model, "stage", NUM_CLASSES)
    runs = torch.compile(model, backend="eager") if compiled else model
    for images in (IMAGES, 2 * IMAGES, 3 * IMAGES):  # of several passes the latest counts
        runs(images)
    expected = 0.3 * F.cross_entropy(head.early_logits(images), LABELS)
    torch.testing.assert_close(head.loss(LABELS), expected)


def test_checkpointing_around_the_stage() -> None:
    model = three_stages()
    model[1][1].p = 0.0
    head = EarlyHead(model, "0", NUM_CLASSES)
    (F.cross_entropy(model(IMAGES), LABELS) + head.loss(LABELS)).backward()
    expected = model[0][0].weight.grad.clone()
    model.zero_grad()
    model.forward = lambda x: model[1:](checkpoint(model[0], x, use_reentrant=False))
    (F.cross_entropy(model(IMAGES), LABELS) + head.loss(LABELS)).backward()
    torch.testing.assert_close(model[0][0].weight.grad, expected)
    assert head.features is None  # the backward pass, which ran the stage once more, left none
    model.forward = lambda x: model[1:](checkpoint(model[0], x, use_reentrant=True))
    logits = model(IMAGES.clone().requires_grad_())
    with pytest.raises(ValueError, match="use_reentrant=False"):
        head.loss(LABELS)
    logits.sum().backward()
    assert head.features is None


def test_a_map_after_the_forward_pass_does_not_replace_its_features() -> None:
    model = three_stages().train()
    model[1][1].p = 0.0
    head = EarlyHead(model, "1", NUM_CLASSES)
    model(IMAGES)
    expected = head.loss(LABELS)
    model(IMAGES)
    GradientSaliency(model)(5 * IMAGES, LABELS)
    torch.testing.assert_close(head.loss(LABELS), expected)


def test_two_heads_on_one_model() -> None:
    model = three_stages(last=Broken())
    first, second = (EarlyHead(model, layer, NUM_CLASSES) for layer in ("0", "1"))
    for head in (first, second):
        assert GradientSaliency(model, head=head)(IMAGES, LABELS).shape == (4, 10, 14)
    assert first.features is None and second.features is None


# The model stays as it was


def test_the_models_state_dict_stays_as_it_was() -> None:
    model = three_stages()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    head = EarlyHead(model, "0", NUM_CLASSES, num_features=4)
    for step in (lambda: None, head.remove):
        step()
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert "0" not in head.state_dict() and len(list(head.parameters())) == 2
    assert not torch.equal(torch.get_rng_state(), random_state)  # its own weights, no more


def test_making_a_head_leaves_no_trace_but_its_hook() -> None:
    model = make("features in eval")
    before = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    nn.Linear(6, NUM_CLASSES)
    expected = torch.rand(1)
    torch.manual_seed(5)
    EarlyHead(model, "body", NUM_CLASSES)
    assert torch.equal(torch.rand(1), expected)  # nothing is drawn but the linear layer
    assert [module.training for module in model.modules()] == before[0]
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), before[1].values(), strict=True)
    )


def test_a_removed_head_is_gone() -> None:
    model = three_stages()
    head = EarlyHead(model, "0", NUM_CLASSES)
    model(IMAGES)
    head.remove()
    assert head.features is None and not model[0]._forward_hooks
    model(IMAGES)
    with pytest.raises(ValueError, match="no features yet"):
        head.loss(LABELS)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_model_with_a_head_can_be_copied(clone: Callable, waiting: bool) -> None:
    """As an average of weights does, at any time: also between the forward pass and the loss."""
    model = three_stages()
    head = EarlyHead(model, "0", NUM_CLASSES)
    if waiting:
        model(IMAGES)
    twin = clone(model)
    features = head.features
    twin(IMAGES)
    assert head.features is features  # the copy does not feed the original's head
    assert (features is not None) == waiting
    model(IMAGES)
    assert head.loss(LABELS).requires_grad
    assert GradientSaliency(model, head=head)(IMAGES, LABELS).shape == (4, 10, 14)


def test_model_and_head_can_be_copied_together() -> None:
    both = nn.ModuleDict({"model": three_stages()})
    both["head"] = EarlyHead(both["model"], "0", NUM_CLASSES)
    twin = copy.deepcopy(both)
    assert twin["head"].owner[0] is twin["model"]
    twin["model"](IMAGES)
    assert both["head"].features is None
    twin["head"].loss(LABELS).backward()
    assert twin["model"][0][0].weight.grad is not None and both["model"][0][0].weight.grad is None


# Every kind of model


def swin(side: int = 64, embed_dim: int = 12) -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=side,
        patch_size=4,
        embed_dim=embed_dim,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=2,
    )


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], str, int, tuple[int, int]]] = {
    "torchvision ResNet": (torchvision.models.resnet18, "layer1", 64, (32, 48)),
    "torchvision ResNet, a block": (torchvision.models.resnet18, "layer2.0", 128, (48, 32)),
    "torchvision ConvNeXt": (
        partial(
            torchvision.models.ConvNeXt,
            [
                torchvision.models.convnext.CNBlockConfig(8, 16, 1),
                torchvision.models.convnext.CNBlockConfig(16, None, 1),
            ],
        ),
        "features.1",
        8,
        (32, 40),
    ),
    "timm ResNet": (
        partial(timm.models.ResNet, timm.models.resnet.BasicBlock, (1, 1, 1, 1)),
        "layer1",
        64,
        (32, 48),
    ),
    "timm ViT": (timm_vit, "blocks.0", 12, (8, 8)),
    "timm ViT of 32 pixels": (partial(timm_vit, 32), "blocks.1", 12, (32, 32)),
    "timm ViT of 48 pixels": (partial(timm_vit, 48), "blocks.1", 12, (48, 48)),
    "timm Swin, channels last": (swin, "layers.0", 12, (64, 64)),
    "torchvision Swin, channels last": (
        partial(torchvision.models.SwinTransformer, [4, 4], 12, [1, 1], [1, 2], [4, 4]),
        "features.1",
        12,
        (32, 64),
    ),
    "a flat layer": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "2",
        4,
        (10, 14),
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_of_every_architecture(name: str) -> None:
    factory, layer, num_features, size = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = factory()
    given = num_features if size in ((8, 8), (48, 48)) else None  # no grey image has this size
    head = EarlyHead(model, layer, 7, num_features=given)
    assert head.classifier.in_features == num_features
    images = randn(2, 3, *size)
    kept = []
    dict(model.named_modules())[layer].register_forward_hook(lambda m, a, out: kept.append(out))
    model(images)
    loss = head.loss(labels(2))
    channels = kept[0].shape.index(num_features)
    pooled = kept[0].movedim(channels, 1).flatten(2).mean(2) if kept[0].ndim > 2 else kept[0]
    expected = F.cross_entropy(head.classifier(pooled), labels(2))
    torch.testing.assert_close(loss, 0.3 * expected)
    saliency = GradientSaliency(model, head=head)(images, labels(2))
    assert saliency.shape == (2, *size) and saliency.std() > 0


def test_half_resolution_and_early_head_combine_on_a_real_network() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    head = EarlyHead(model, "layer1", 10)
    images = randn(2, 3, 32, 48)
    saliency = GradientSaliency(model, scale=0.5, head=head)(images, labels(2))
    blocks = saliency.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    model.layer2 = Broken()  # type: ignore[assignment]
    assert torch.equal(GradientSaliency(model, scale=0.5, head=head)(images, labels(2)), saliency)


def test_a_head_has_the_precision_of_its_model() -> None:
    model = three_stages().bfloat16()
    head = EarlyHead(model, "0", NUM_CLASSES)
    model(IMAGES.bfloat16())
    assert head.loss(LABELS).dtype == torch.bfloat16
    assert GradientSaliency(model, head=head)(IMAGES.bfloat16(), LABELS).std() > 0


def test_a_head_under_autocast_and_channels_last() -> None:
    model = three_stages().to(memory_format=torch.channels_last)
    head = EarlyHead(model, "0", NUM_CLASSES)
    images = IMAGES.to(memory_format=torch.channels_last)
    expected = GradientSaliency(model, head=head)(images, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        saliency = GradientSaliency(model, head=head)(images, LABELS)
        model(images)
        assert head.loss(LABELS).isfinite()
    assert torch.corrcoef(torch.stack((saliency.flatten(), expected.flatten())))[0, 1] > 0.99


# Wrapped models


def test_a_compiled_model_trains_its_head() -> None:
    model = three_stages()
    model[1][1].p = 0.0
    head = EarlyHead(model, "0", NUM_CLASSES)
    compiled = torch.compile(model, backend="eager")
    model(IMAGES)
    expected = torch.autograd.grad(head.loss(LABELS), model[0][0].weight)[0]
    for _ in range(2):
        saliency = GradientSaliency(compiled, head=head)(IMAGES, LABELS)
        assert saliency.std() > 0
        logits = compiled(IMAGES)
        gradient = torch.autograd.grad(head.loss(LABELS), model[0][0].weight)[0]
        torch.testing.assert_close(gradient, expected)
        assert logits.shape == (4, NUM_CLASSES)


def test_a_head_may_be_made_of_a_compiled_model() -> None:
    model = three_stages()
    head = EarlyHead(torch.compile(model, backend="eager"), "0", NUM_CLASSES)
    assert head.owner[0] is model
    assert head.early_logits(IMAGES).shape == (4, NUM_CLASSES)


def test_the_way_to_the_stage_compiles_as_one_graph() -> None:
    model = three_stages(Broken()).train()
    head = EarlyHead(model, "0", NUM_CLASSES)
    saliency = GradientSaliency(model, scale=0.5, head=head)
    expected = saliency(IMAGES, LABELS)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph

    head.compile(backend=backend, fullgraph=True)
    for _ in range(2):
        assert torch.equal(saliency(IMAGES, LABELS), expected)
    assert len(graphs) == 1
    assert model.training and model[0][0].weight.requires_grad
    assert copy.deepcopy(head).compiled is None


# Bad input


def test_an_unknown_layer_names_those_that_exist() -> None:
    model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match=r"no layer 'layer9' in ResNet; it has conv1, bn1, .*fc"):
        EarlyHead(model, "layer9", 10)
    with pytest.raises(ValueError, match=r"did you mean .*layer1\.0\.conv1"):
        EarlyHead(model, "layer1.0.conv", 10)
    with pytest.raises(ValueError, match="no layer '' in ResNet"):
        EarlyHead(model, "", 10)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_the_model_never_runs() -> None:
    model = three_stages()
    model.spare = nn.Conv2d(3, 4, 1)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with pytest.raises(ValueError, match="layer 'spare' must give a tensor .* found nothing"):
        EarlyHead(model, "spare", NUM_CLASSES)
    assert not model.spare._forward_hooks


def test_a_layer_that_gives_no_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pair = nn.Conv2d(3, 4, 3), Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(self.stem(x))[0].mean((2, 3))

    with pytest.raises(ValueError, match="layer 'pair' must give a tensor .* found tuple"):
        EarlyHead(Model(), "pair", NUM_CLASSES)


def test_channels_that_the_grey_image_does_not_find() -> None:
    model = timm_vit(40)  # it takes images of no usual size
    with pytest.raises(ValueError, match="not found .*doesn't match.*; give num_f"):
        EarlyHead(model, "blocks.0", NUM_CLASSES)
    assert not model.blocks[0]._forward_hooks and not model._forward_pre_hooks
    head = EarlyHead(model, "blocks.0", NUM_CLASSES, num_features=12)
    assert head.early_logits(randn(2, 3, 40, 40)).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize("side", [64, 40])
def test_the_axis_of_channels_last(side: int) -> None:
    """Found by a grey image or, if the model takes none, by `num_features`."""
    model = swin(side)
    head = EarlyHead(model, "layers.0", NUM_CLASSES, num_features=12)
    features = []
    model.layers[0].register_forward_hook(lambda m, a, out: features.append(out))
    model(images := randn(2, 3, side, side))
    expected = head.classifier(features[0].mean((1, 2)))
    torch.testing.assert_close(head.early_logits(images), expected)


def test_as_many_channels_as_rows_and_columns() -> None:
    """A convolution is known by other sizes; what takes one size only has its channels last."""
    convolution = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Flatten())
    assert EarlyHead(convolution, "0", 2).channel_axis == 1
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(4))
    assert EarlyHead(pooled, "1", 2).channel_axis == 1
    model = swin(64, embed_dim=16)  # (B, 16, 16, 16)
    assert EarlyHead(model, "layers.0", 2).channel_axis == -1


def test_the_stem_need_not_be_the_first_convolution_defined() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck, self.stem = nn.Conv2d(5, 7, 1), nn.Conv2d(2, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.neck(self.stem(x)).mean((2, 3))

    assert EarlyHead(Model(), "neck", NUM_CLASSES).classifier.in_features == 7
    with pytest.raises(ValueError, match="gives 7 channels, not num_features=8"):
        EarlyHead(Model(), "neck", NUM_CLASSES, num_features=8)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.ReLU())
    assert EarlyHead(linear, "1", NUM_CLASSES).classifier.in_features == 6


def test_a_model_that_fails_says_how() -> None:
    with pytest.raises(ValueError, match="not found .*did not stop at the stage"):
        EarlyHead(nn.Sequential(Broken(), nn.Tanh()), "1", NUM_CLASSES)
    with pytest.raises(ValueError, match="lazy layers: run it once"):
        EarlyHead(nn.Sequential(nn.LazyConv2d(4, 1)), "0", NUM_CLASSES)


def test_a_frozen_stage_still_trains_its_head() -> None:
    model = three_stages().train()
    model[0].eval()
    head = EarlyHead(model, "0", 5)
    model(torch.randn(2, 3, 8, 8))
    head.loss(torch.tensor([0, 1])).backward()
    assert head.classifier.weight.grad is not None


def test_a_stage_that_is_changed_in_place_trains_the_head_that_gives_the_map() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5)
    )
    head = EarlyHead(model, "0", num_classes=5)
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([1, 3])
    model(images)
    expected = head.weight * F.cross_entropy(head.early_logits(images), labels)
    assert torch.equal(head.loss(labels), expected)
