"""Adapters on towers of production size and of unusual shapes: the same outputs, exact merging, attention."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from safeclip.encoders.fast_cpu import JoinedLowRankLinear, ProductAttention
from safeclip.encoders.lora import adapter_parameters, add_lora, merge
from safeclip.encoders.lora_layers import LoraAttention, LowRankLinear

ODD = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 20, "patch_size": 5, "width": 36, "layers": 1, "head_width": 12},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 30, "heads": 5, "layers": 3, "mlp_ratio": 2},
    "quick_gelu": True,
}


def build(name: str) -> CLIP:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32") if name == "ViT-B-32" else CLIP(**ODD)
    return model.eval()


def outputs(model: CLIP) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = model.visual.image_size[0]
    pixels = torch.rand(1, 3, size, size, generator=generator)
    rows = model.token_embedding.num_embeddings
    tokens = torch.randint(1, rows - 1, (1, model.context_length), generator=generator)
    tokens[:, -2] = rows - 1
    with torch.no_grad():
        return torch.cat([model.encode_text(tokens), model.encode_image(pixels)])


@pytest.mark.parametrize("name", ["ViT-B-32", "odd"])
def test_outputs_stay_at_the_start_and_merging_is_exact_to_rounding(name):
    plain = build(name)
    model = copy.deepcopy(plain)
    before = outputs(model)
    add_lora(model, rank=4, alpha=8, query=False, tokens=True)
    assert torch.allclose(outputs(model), before, atol=1e-5)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.05, generator=generator)
    adapted = outputs(model)
    assert (adapted - before).abs().max() > 1e-3
    plain.load_state_dict(merge(model), strict=True)
    assert torch.allclose(outputs(plain), adapted, rtol=1e-4, atol=1e-5 * float(adapted.abs().max()))


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (512, 8), (30, 5)])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_gives_the_original_modules_outputs_and_input_gradients(width, heads, causal):
    torch.manual_seed(3)
    original = nn.MultiheadAttention(width, heads, batch_first=True).eval()
    ours = LoraAttention(copy.deepcopy(original), 4, 1.0, torch.Generator().manual_seed(0))
    mask = torch.full((11, 11), -torch.inf).triu(1) if causal else None
    x = torch.randn(3, 11, width)
    results = []
    for module in (original, ours):
        given = x.clone().requires_grad_()
        y = module(given, given, given, need_weights=False, attn_mask=mask)[0]
        y.square().sum().backward()
        results.append((y.detach(), given.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 20), (20, 3), (6, 6)], ids=["wide", "narrow", "square"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("product", [LowRankLinear, JoinedLowRankLinear])
def test_the_layers_product_is_exact_and_so_are_its_gradients(inputs, outputs, biased, product):
    generator = torch.Generator().manual_seed(4)
    shapes = [(5, inputs), (outputs, inputs), (outputs,), (2, inputs), (outputs, 2)]
    x, weight, bias, a, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    for value in (x, a, b):
        value.requires_grad_()

    def layer(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return product.apply(x, weight, bias if biased else None, a, b)

    expected = x @ (weight + b @ a).T + (bias if biased else 0.0)
    assert torch.allclose(layer(x, a, b), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(layer, (x, a, b))


@pytest.mark.parametrize("causal", [True, False])
def test_plain_attention_equals_the_fused_one_and_so_does_its_gradient(causal):
    generator = torch.Generator().manual_seed(5)
    packed = torch.randn(2, 5, 3, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1) if causal else None
    fused = F.scaled_dot_product_attention(*packed.permute(2, 0, 3, 1, 4), attn_mask=mask)
    assert torch.allclose(ProductAttention.apply(packed, mask), fused.transpose(1, 2).flatten(2), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda packed: ProductAttention.apply(packed, mask), (packed,))


class Products(TorchDispatchMode):
    """Notes the shapes that matrix products give."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.shapes.add(tuple(result.shape))
        return result


def test_no_gradient_of_a_frozen_weights_shape_is_formed():
    model = build("odd")
    add_lora(model, rank=2, alpha=2)
    frozen = {tuple(v.shape) for v in model.parameters() if not v.requires_grad and v.dim() == 2}
    loss = model.encode_image(torch.rand(2, 3, 20, 20)).square().sum()
    with Products() as products:
        loss.backward()
    assert products.shapes
    assert not products.shapes & (frozen | {shape[::-1] for shape in frozen})
