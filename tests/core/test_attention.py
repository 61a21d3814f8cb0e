from __future__ import annotations

import pytest
import timm
import torch
from small import randn
from torch import Tensor, nn

from keepaugment import AttentionSaliency, KeepCutout

IMAGES = randn(2, 3, 32, 32)


def vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return timm.models.VisionTransformer(num_classes=5, **{**settings, **options})  # type: ignore[arg-type]


def by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """Every head's attention (B, heads, N, N) in the last block, written out by timm itself."""
    attention = model.blocks[-1].attn
    attention.fused_attn = False
    seen = []
    hook = attention.attn_drop.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    model.eval()(images)
    model.train()
    hook.remove()
    attention.fused_attn = True
    return seen[0].detach()


def enlarged(patches: Tensor, rows: int, columns: int, side: int = 8) -> Tensor:
    """Patches (B, n) as squares of so many pixels: (B, side rows, side columns)."""
    squares = patches.view(-1, rows, columns)
    return squares.repeat_interleave(side, 1).repeat_interleave(side, 2)


@pytest.mark.parametrize(
    "options", [{}, {"qk_norm": True}, {"reg_tokens": 3}, {"attn_drop_rate": 0.9, "drop_rate": 0.9}]
)
def test_the_class_token_looks_at_patches(options: dict) -> None:
    model = vit(**options)
    expected = by_hand(model, IMAGES)[:, :, 0, model.num_prefix_tokens :].mean(1)
    torch.testing.assert_close(AttentionSaliency(model)(IMAGES), enlarged(expected, 4, 4))


@pytest.mark.parametrize("options", [{"class_token": False}, {}])
def test_patches_that_are_pooled_look_at_each_other(options: dict) -> None:
    model = vit(global_pool="avg", **options)
    prefix = model.num_prefix_tokens
    expected = by_hand(model, IMAGES)[:, :, prefix:, prefix:].mean((1, 2))
    torch.testing.assert_close(AttentionSaliency(model)(IMAGES), enlarged(expected, 4, 4))


def test_images_need_not_be_square() -> None:
    model, images = vit(dynamic_img_size=True), randn(2, 3, 24, 48)
    expected = by_hand(model, images)[:, :, 0, 1:].mean(1)
    torch.testing.assert_close(AttentionSaliency(model)(images), enlarged(expected, 3, 6))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = vit(drop_path_rate=0.5, drop_rate=0.5)
    model.blocks[0].eval()
    before = {
        name: (module.training, len(module._forward_hooks))
        for name, module in model.named_modules()
    }
    parameters = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    numbers = torch.get_rng_state()
    if fails:
        with pytest.raises(AssertionError, match="doesn't match model"):
            AttentionSaliency(model)(randn(2, 3, 40, 40))
    else:
        saliency = AttentionSaliency(model)(IMAGES)
        assert not saliency.requires_grad
        assert torch.equal(saliency, AttentionSaliency(model)(IMAGES))  # no dropout
    assert torch.equal(torch.get_rng_state(), numbers)
    assert before == {
        name: (module.training, len(module._forward_hooks))
        for name, module in model.named_modules()
    }
    for name, parameter in model.named_parameters():
        assert parameter.grad is None and parameter.requires_grad == parameters[name][0]
        assert torch.equal(parameter, parameters[name][1])


def test_a_map_of_a_batch_is_that_of_its_images() -> None:
    saliency = AttentionSaliency(vit())
    torch.testing.assert_close(saliency(IMAGES)[1:], saliency(IMAGES[1:]))
    assert saliency(IMAGES[:0]).shape == (0, 32, 32)


def test_under_autocast_and_inference_mode() -> None:
    model = vit()
    plain = AttentionSaliency(model)(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        low = AttentionSaliency(model)(IMAGES)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, plain, rtol=0.02, atol=0.0)
    with torch.inference_mode():
        torch.testing.assert_close(AttentionSaliency(model)(IMAGES), plain)


def test_a_wrapped_model_has_the_same_map() -> None:
    model = vit()
    compiled = torch.compile(model, backend="eager")
    compiled(IMAGES)
    torch.testing.assert_close(
        AttentionSaliency(compiled)(IMAGES), AttentionSaliency(model)(IMAGES)
    )


def test_it_is_a_map_like_any_other() -> None:
    keep = KeepCutout(size=8, saliency=AttentionSaliency(vit()))
    assert keep(IMAGES).shape == IMAGES.shape


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("eva02_tiny_patch14_224", 14),
        ("beit_base_patch16_224", 16),
        ("vit_small_patch16_dinov3", 16),
    ],
)
def test_positions_are_part_of_the_attention(name: str, patch: int) -> None:
    """Rotary ones or a table of biases: the weights are those that timm writes out itself."""
    side = 4 * patch
    small = {"img_size": side, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.create_model(name, **small)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    images, prefix = randn(2, 3, side, side), model.num_prefix_tokens
    found = AttentionSaliency(model)(images)
    expected = by_hand(model, images)[:, :, prefix:, prefix:].mean((1, 2))
    torch.testing.assert_close(found, enlarged(expected, 4, 4, patch))


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="ResNet is no transformer .* take GradientSaliency"):
        AttentionSaliency(timm.create_model("resnet10t"))
    windows = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(2, 2, 2, 1))
    windows = AttentionSaliency(windows)
    with pytest.raises(ValueError, match="in SwinTransformer no scaled_dot_product_attention was"):
        windows(randn(3, 3, 224, 224))


def test_patches_that_are_dropped_are_noticed() -> None:
    model = vit()
    patches = model.patch_embed
    patches.patch_size = (4, 4)
    with pytest.raises(ValueError, match=r"16 patches are not the 8 x 8 of images of \(32, 32\)"):
        AttentionSaliency(model)(IMAGES)


def test_the_users_images_are_not_written() -> None:
    model, images = vit(), IMAGES.clone()
    model.register_forward_pre_hook(lambda module, args: (args[0].mul_(2),))
    AttentionSaliency(model)(images)
    assert torch.equal(images, IMAGES)
