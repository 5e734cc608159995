"""The fused and the published form of pooling attention are the same function."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from stvit.layers import pooling_attention
from stvit.layers.nd import convolve
from stvit.layers.pooling_attention import PoolingAttention, PoolingAttentionSpec, only_read_places

IMAGE = PoolingAttentionSpec(
    dim=12, dim_out=24, heads=2, pool_kernel=(3, 3), q_stride=(2, 2), kv_stride=(4, 4), table_rows=(11, 13)
)
CLIP = PoolingAttentionSpec(
    dim=12, dim_out=24, heads=2, pool_kernel=(3, 3, 3), q_stride=(1, 2, 2), kv_stride=(1, 8, 8), table_rows=(7, 11, 13)
)
GRIDS = {IMAGE: [(12, 14), (9, 5)], CLIP: [(4, 12, 14), (3, 9, 17)]}
VARIANTS = [
    dataclasses.replace(spec, **changes)
    for spec in (IMAGE, CLIP)
    for changes in (
        {},
        {"table_rows": None},
        {"residual_pooling": False, "qkv_bias": False},
        {"balance_class_token": True},
        {"pool_query": False, "q_stride": (1,) * len(spec.q_stride)},
        {"heads": 1, "kv_stride": (1,) * len(spec.q_stride)},
    )
]


def build(spec: PoolingAttentionSpec) -> PoolingAttention:
    torch.manual_seed(0)
    attention = PoolingAttention(spec).double()
    for name, parameter in attention.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return attention


@pytest.mark.parametrize("token", [False, True], ids=["patches", "class-token"])
@pytest.mark.parametrize("spec", VARIANTS)
def test_both_forms_agree_in_value_and_gradient(spec: PoolingAttentionSpec, token: bool) -> None:
    attention = build(spec)
    for grid in GRIDS[CLIP if len(spec.q_stride) == 3 else IMAGE]:
        x = torch.randn(2, *grid, spec.dim, dtype=torch.float64, requires_grad=True)
        cls = torch.randn(2, 1, spec.dim, dtype=torch.float64) if token else None
        outputs, gradients = {}, {}
        for way in ("fused", "published"):
            attention.way = way
            out, out_cls = attention(x, cls)
            assert (out_cls is None) == (cls is None)
            outputs[way] = out.flatten() if out_cls is None else torch.cat([out.flatten(), out_cls.flatten()])
            seen = torch.cos(torch.arange(outputs[way].numel(), dtype=torch.float64))
            gradients[way] = torch.autograd.grad(outputs[way], (x, *attention.parameters()), seen)
        torch.testing.assert_close(outputs["fused"], outputs["published"])
        for got, want in zip(gradients["fused"], gradients["published"], strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("spec", [IMAGE, CLIP])
def test_the_published_form_is_the_formula(spec: PoolingAttentionSpec) -> None:
    """One query of one head, by hand: scaled scores, unscaled q.R of every axis, softmax, values, plus the query."""
    attention = build(spec)
    attention.way = "published"
    attention.proj = torch.nn.Identity()
    grid, head, d = GRIDS[spec][0], 1, attention.head_dim
    x = torch.randn(1, *grid, spec.dim, dtype=torch.float64)
    out, _ = attention(x, None)

    def part(number: int, name: str, stride: tuple[int, ...]) -> torch.Tensor:
        rows = attention.qkv(x)[..., number * 24 + head * d : number * 24 + (head + 1) * d]
        weight = getattr(attention, f"pool_{name}").weight
        pooled = convolve(rows.movedim(-1, 1), weight, None, stride, [1] * len(stride), groups=d).movedim(1, -1)[0]
        return getattr(attention, f"norm_{name}")(pooled)

    q, k, v = part(0, "q", spec.q_stride), part(1, "k", spec.kv_stride), part(2, "v", spec.kv_stride)
    place = tuple(n - 1 for n in q.shape[:-1])
    query = q[place]
    scores = (k @ query) * d**-0.5
    for index in torch.cartesian_prod(*(torch.arange(n) for n in k.shape[:-1])).tolist():
        for axis, (name, table) in enumerate(zip("thw"[-len(place) :], spec.table_rows, strict=True)):
            n_q, n_k = q.shape[axis], k.shape[axis]
            rows = 2 * max(n_q, n_k) - 1
            vectors = getattr(attention, f"rel_pos_{name}")
            if rows != table:
                vectors = F.interpolate(vectors.T[None], size=rows, mode="linear")[0].T
            i, j = place[axis], index[axis]
            distance = int(i * max(n_k / n_q, 1) - j * max(n_q / n_k, 1) + (n_k - 1) * max(n_q / n_k, 1) + 1e-9)
            scores[tuple(index)] += query @ vectors[distance]
    weights = scores.flatten().softmax(0)
    want = weights @ v.flatten(0, -2) + query
    torch.testing.assert_close(out[(0, *place)][head * d : (head + 1) * d], want)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 17, 24, 55, 56])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 8), (3, 4), (3, 3), (3, 2), (1, 2), (5, 7)])
def test_places_that_are_never_read_may_be_left_out(size: int, kernel: int, stride: int) -> None:
    x = torch.randn(1, size, 5, 2, dtype=torch.float64)
    weight = torch.randn(2, 1, kernel, 3, dtype=torch.float64)

    def convolved(x: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
        return convolve(x.movedim(-1, 1), weight, None, stride, [kernel // 2, 1], groups=2)

    read, read_stride = only_read_places(x, (kernel, 3), (stride, 1))
    torch.testing.assert_close(convolved(read, read_stride), convolved(x, (stride, 1)))
    assert read.shape[1] == size if stride <= kernel else read.shape[1] <= kernel * -(-size // stride)


def test_no_scores_are_ever_kept() -> None:
    """Between all tensors saved for the backward pass, none has a value for each query and key."""
    attention = build(dataclasses.replace(CLIP, heads=1, kv_stride=(1, 2, 2), q_stride=(1, 1, 1))).float()
    x = torch.randn(1, 4, 16, 16, 12)
    queries, keys = 4 * 16 * 16, 4 * 8 * 8
    largest = {}
    for way in ("fused", "published"):
        attention.way, sizes = way, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):  # noqa: B023
            attention(x, None)
        largest[way] = max(sizes)
    assert largest["published"] >= queries * keys
    assert largest["fused"] < queries * keys / 4


@pytest.mark.parametrize(
    ("limit", "called"), [(2 * 6 * 7 * 3 * 4 * 2, "outright"), (2 * 6 * 7 * 3 * 4 * 2 - 1, "fused")]
)
@pytest.mark.parametrize("grad", [False, True])
def test_few_scores_are_computed_outright(limit: int, called: str, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples, two heads, 6 x 7 queries and 3 x 4 keys, float32 on the CPU."""
    monkeypatch.setitem(pooling_attention.FEW_SCORES, grad, limit)
    attention, x = build(IMAGE).float(), torch.randn(2, 12, 14, 12)
    calls = []
    for way in ("outright", "fused"):
        whole = getattr(attention, f"_attend_{way}")
        monkeypatch.setattr(
            attention, f"_attend_{way}", lambda *a, way=way, whole=whole: (calls.append(way), whole(*a))[1]
        )
    with torch.set_grad_enabled(grad):
        attention(x, None)
        assert calls == [called]
        attention.double()(x.double(), None)
        with torch.autocast("cpu", torch.bfloat16):
            attention.float()(x, None)
    assert calls == [called, "fused", "fused"]


def test_bias_in_half_precision_keeps_eight_bits() -> None:
    """Products of queries and position vectors enter the scores as bfloat16 channels, sums are in float32."""
    attention = build(CLIP).float()
    x = torch.randn(1, 4, 12, 14, 12)
    exact = attention(x, None)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x, None)[0]
    assert ((rounded - exact).abs().max() / exact.abs().max()) < 2**-5
