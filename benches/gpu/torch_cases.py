"""The cases of `ccl bench kernels --set paper` in PyTorch: the same sizes under the same ids.

A case makes sets of inputs and has *forms*, ways to compute it; the fastest counts. Written as a good PyTorch engineer would run the
model: cuBLAS, fused chains by torch.compile, attention by cuDNN, flash and FlexAttention. `compare.py` beside this file measures them.
"""
import dataclasses
import math
from typing import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Streams are (channels, channels of the feed-forward, heads); the grid is frames, tokens of a frame, audio tokens."""
    video: tuple
    audio: tuple
    context: tuple  # read by the video stream, by the audio stream
    text: int
    grid: tuple


PAPER = Sizes((5120, 13824, 40), (1536, 8960, 12), (8, 128), 512, (21, 880, 158))
TINY = Sizes((64, 96, 2), (32, 48, 2), (2, 4), 6, (3, 4, 22))


@dataclasses.dataclass
class Case:
    id: str
    make: Callable  # () -> inputs of a run
    forms: dict     # name -> function of the inputs
    read: int       # bytes of the inputs
    graph: bool = True  # whether runs can be captured as a CUDA graph


def windows(frames, length):
    """First and last audio token (exclusive) of each frame's window, as `window_center = "paper"` and `window_edge = "mask"` have them."""
    c = max(1, length // frames)
    start = [c // 2 + c * i - (3 * c) // 2 for i in range(frames)]
    return start, 3 * c


class Maker:
    """Makes the cases of one stream."""

    def __init__(self, sizes, stream, dtype, device, compiled):
        self.sizes, self.stream, self.dtype, self.device = sizes, stream, dtype, device
        self.compile = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.fused = "torch.compile" if compiled else "eager"
        video = stream == "video"
        self.d, self.ffn, self.heads = sizes.video if video else sizes.audio
        self.other_d = (sizes.audio if video else sizes.video)[0]
        frames, per, length = sizes.grid
        self.m, self.others = (frames * per, length) if video else (length, frames * per)
        self.n = sizes.context[0 if video else 1]

    # Tensors.
    def tokens(self, *shape):
        return torch.randn(shape, device=self.device).to(self.dtype)

    def weight(self, *shape):
        return (0.02 * torch.randn(shape, device=self.device)).to(self.dtype)

    def single(self, *shape):
        return torch.randn(shape, device=self.device)

    def case(self, name, make, forms, graph=True):
        inputs = make()
        read = sum(t.numel() * t.element_size() for t in inputs if isinstance(t, torch.Tensor))
        del inputs
        return Case(f"{self.stream}.{name}", make, forms, read, graph)

    def cases(self):
        """Makers of cases, the most telling first."""
        return [self.projection, self.self_attention, self.cca, self.ffn_up, self.ffn_down, self.norm_modulate, self.norm_rope,
                self.projection_gate, self.text_attention, self.gate_residual, self.cca_keys, self.layer_norm,
                self.self_attention_gradient, self.cca_gradient, self.dx, self.dw, self.ffn_dx, self.ffn_dw, self.norm_gradient,
                self.adam_w]

    # Products.
    def linear(self, name, m, n, k):
        make = lambda: (self.tokens(1, m, k), self.weight(n, k), self.weight(n))
        return self.case(name, make, {"cublas": lambda x, w, b: F.linear(x, w, b)})

    def projection(self):
        return self.linear("projection", self.m, self.d, self.d)

    def cca_keys(self):
        return self.linear("cca.keys", self.others, self.d, self.other_d)

    def gated(self, name, k):
        def chain(x, w, b, residual, gate):
            return (residual + F.linear(x, w, b) * gate).to(x.dtype)
        make = lambda: (self.tokens(1, self.m, k), self.weight(self.d, k), self.weight(self.d), self.tokens(1, self.m, self.d),
                        self.single(1, 1, self.d))
        return self.case(name, make, {self.fused: self.compile(chain)})

    def projection_gate(self):
        return self.gated("projection.gate", self.d)

    def ffn_down(self):
        return self.gated("ffn.down", self.ffn)

    def ffn_up(self):
        chain = lambda x, w, b: F.gelu(F.linear(x, w, b), approximate="tanh")
        make = lambda: (self.tokens(1, self.m, self.d), self.weight(self.ffn, self.d), self.weight(self.ffn))
        return self.case("ffn.up", make, {self.fused: self.compile(chain)})

    def product_dx(self, name, n):
        make = lambda: (self.tokens(self.m, n), self.weight(n, self.d))
        return self.case(f"{name}.dx", make, {"cublas": lambda g, w: g @ w})

    def product_dw(self, name, n):
        make = lambda: (self.tokens(self.m, n), self.tokens(self.m, self.d))
        return self.case(f"{name}.dw", make, {"cublas": lambda g, x: g.t() @ x})

    def dx(self):
        return self.product_dx("projection", self.d)

    def dw(self):
        return self.product_dw("projection", self.d)

    def ffn_dx(self):
        return self.product_dx("ffn.up", self.ffn)

    def ffn_dw(self):
        return self.product_dw("ffn.up", self.ffn)

    # Attention; tokens lie as the projections leave them.
    def kinds(self):
        return {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION,
                "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}

    def sdpa(self, kinds):
        def of(kind):
            def run(q, k, v):
                with sdpa_kernel(kind):
                    return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
            return run
        return {name: of(self.kinds()[name]) for name in kinds}

    def sources(self, keys):
        dim = self.d // self.heads
        return lambda: tuple(self.tokens(1, n, self.heads, dim) for n in (self.m, keys, keys))

    def names(self):
        return ["cudnn", "flash"] if self.device == "cuda" else ["math"]

    def self_attention(self):
        return self.case("self_attention", self.sources(self.m), self.sdpa(self.names()))

    def text_attention(self):
        return self.case("text_attention", self.sources(self.sizes.text), self.sdpa(self.names()))

    def backward(self, form, count):
        """The gradients of a form's first inputs; the forward pass is made once for each set and not measured."""
        kept = {}

        def run(*inputs):
            key = inputs[0].data_ptr()
            if key not in kept:
                leaves = [t.detach().requires_grad_(True) for t in inputs[:count]]
                out = form(*leaves, *inputs[count:-1])
                kept[key] = (out, leaves)
            out, leaves = kept[key]
            return torch.autograd.grad(out, leaves, inputs[-1].view_as(out), retain_graph=True)
        return run

    def self_attention_gradient(self):
        make = lambda: (*self.sources(self.m)(), self.tokens(1, self.m, self.heads, self.d // self.heads))
        forms = {name: self.backward(form, 3) for name, form in self.sdpa(self.names()).items()}
        return self.case("self_attention.gradient", make, forms, graph=False)

    # The attention over the other stream's tokens and the context.
    def cross_sources(self):
        dim, h = self.d // self.heads, self.heads
        return (self.tokens(1, self.m, h, dim), self.tokens(1, self.others, h, dim), self.tokens(1, self.others, h, dim),
                self.tokens(self.n, h, dim), self.tokens(self.n, h, dim))

    def gathered(self):
        """SDPA over gathered windows, as the peer has it."""
        frames, per, length = self.sizes.grid
        n, h, dim = self.n, self.heads, self.d // self.heads
        if self.stream == "video":
            start, size = windows(frames, length)
            index = torch.tensor(start)[:, None] + torch.arange(size)[None]
            valid = (index >= 0) & (index < length)
            index = index.clamp(0, length - 1).to(self.device)
            mask = torch.cat([valid, torch.ones(frames, n, dtype=torch.bool)], 1)[None, :, None, None].to(self.device)
            split = lambda q: q.view(1, frames, per, h, dim)
            take = lambda x: x[:, index]
        else:
            index, mask = (torch.arange(length) * frames // length).to(self.device), None
            split = lambda q: q.view(1, length, 1, h, dim)
            take = lambda x: x.view(1, frames, per, h, dim)[:, index]

        def run(q, k, v, ck, cv):
            rows = index.shape[0]
            grow = lambda c: c.expand(1, rows, n, h, dim)
            k, v = torch.cat([take(k), grow(ck)], 2), torch.cat([take(v), grow(cv)], 2)
            o = F.scaled_dot_product_attention(*(t.transpose(2, 3) for t in (split(q), k, v)), attn_mask=mask)
            return o.transpose(2, 3).reshape(q.shape)
        return run

    def flex(self):
        """FlexAttention with a mask of blocks, context tokens first."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        frames, per, length = self.sizes.grid
        n = self.n
        if self.stream == "video":
            first, size = windows(frames, length)
            first = torch.tensor(first, device=self.device)

            def mask(b, h, q, k):
                start = first[q // per]
                return (k < n) | ((k - n >= start) & (k - n < start + size))
        else:
            def mask(b, h, q, k):
                return (k < n) | ((k - n) // per == q * frames // length)
        blocks = create_block_mask(mask, None, None, self.m, n + self.others, device=self.device)
        attend = self.compile(flex_attention)

        def run(q, k, v, ck, cv):
            k, v = torch.cat([ck[None], k], 1), torch.cat([cv[None], v], 1)
            return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=blocks).transpose(1, 2)
        return run

    def cca(self):
        return self.case("cca", self.cross_sources, {"gathered": self.gathered(), "flex": self.flex()})

    def cca_gradient(self):
        make = lambda: (*self.cross_sources(), self.tokens(1, self.m, self.heads, self.d // self.heads))
        forms = {"gathered": self.backward(self.gathered(), 5)}
        if self.device == "cuda":
            forms["flex"] = self.backward(self.flex(), 5)
        return self.case("cca.gradient", make, forms, graph=False)

    # Norms and what is elementwise.
    def norm_modulate(self):
        def chain(x, shift, scale):
            return (F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1 + scale) + shift).to(x.dtype)
        make = lambda: (self.tokens(1, self.m, self.d), self.single(1, 1, self.d), self.single(1, 1, self.d))
        return self.case("norm_modulate", make, {self.fused: self.compile(chain)})

    def layer_norm(self):
        plain = lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-6)
        make = lambda: (self.tokens(1, self.m, self.d), self.weight(self.d), self.weight(self.d))
        return self.case("layer_norm", make, {"eager": plain, self.fused: self.compile(plain)})

    def norm_rope(self):
        h, dim = self.heads, self.d // self.heads

        def chain(x, w, table):
            y = (F.rms_norm(x.float(), x.shape[-1:], eps=1e-6) * w).view(1, self.m, h, dim // 2, 2)
            cos, sin = table[None, :, None, :, 0], table[None, :, None, :, 1]
            a, b = y[..., 0], y[..., 1]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
        make = lambda: (self.tokens(1, self.m, self.d), self.single(self.d), self.single(self.m, dim // 2, 2))
        return self.case("norm_rope", make, {self.fused: self.compile(chain)})

    def gate_residual(self):
        chain = lambda x, residual, gate: (residual + x * gate).to(x.dtype)
        make = lambda: (self.tokens(1, self.m, self.d), self.tokens(1, self.m, self.d), self.single(1, 1, self.d))
        return self.case("gate_residual", make, {self.fused: self.compile(chain)})

    def norm_gradient(self):
        def chain(g, x, scale):
            g, x = g.float() * (1 + scale), x.float()
            mean = x.mean(-1, keepdim=True)
            rstd = torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + 1e-6)
            n = (x - mean) * rstd
            return (rstd * (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True))).to(self.dtype)
        make = lambda: (self.tokens(1, self.m, self.d), self.tokens(1, self.m, self.d), self.single(1, 1, self.d))
        return self.case("norm.gradient", make, {self.fused: self.compile(chain)})

    def adam_w(self):
        kept = {}

        def run(p, g, m, v):
            key = p.data_ptr()
            if key not in kept:
                leaf = p.requires_grad_(True)
                leaf.grad = g
                kept[key] = torch.optim.AdamW([leaf], lr=1e-5, weight_decay=0.01, fused=self.device == "cuda")
            kept[key].step()
        make = lambda: tuple(self.single(self.d * self.d) for _ in range(4))
        return self.case("adam_w", make, {"fused AdamW": run}, graph=False)


def flops(case_id, sizes):
    """Operations of a case as ccl counts them; 0 where it has no products."""
    stream, name = case_id.split(".", 1)
    video = stream == "video"
    d, ffn, heads = sizes.video if video else sizes.audio
    frames, per, length = sizes.grid
    m, others = (frames * per, length) if video else (length, frames * per)
    other_d = (sizes.audio if video else sizes.video)[0]
    square, feed = m * d * d, m * ffn * d
    products = {"projection": square, "projection.gate": square, "projection.dx": square, "projection.dw": square, "ffn.up": feed,
                "ffn.down": feed, "ffn.up.dx": feed, "ffn.up.dw": feed, "cca.keys": others * d * other_d,
                "self_attention": 2 * m * m * d, "text_attention": 2 * m * sizes.text * d}
    return 2 * products.get(name, 0)


assert math.prod(TINY.grid[:2]) == 12  # the tiny sizes are those of `ccl bench kernels --set tiny`
