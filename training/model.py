# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""The built-in model in PyTorch: SigLIP-shaped encoder, pixel shuffle, linear connector, llama decoder.

Shapes and epsilons are those of SmolVLM files, so that the exporter only renames.
Rope here rotates halves (i, i + D/2); the exporter permutes q and k rows for GGUF.
"""
import copy

import torch
import torch.distributed
import torch.nn as nn
import torch.nn.functional as F

ENCODER = dict(size=128, patch=8, width=128, layers=6, heads=2, hidden=512, shuffle=2)
CHUNK = 192
# Half precision pays only where the CPU multiplies it: elsewhere it is ten times slower than single.
FAST_HALF = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
HALF = torch.bfloat16 if FAST_HALF else torch.float32
DECODER = dict(width=192, layers=5, heads=4, kv_heads=2, head_dim=64, hidden=512)


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=FAST_HALF)


def sines_2d(n, width, span=16):
    """[n * n, width] table of 2-D sine positions, raster order"""
    grid = torch.arange(n).float() * (span / n)
    rate = 1 / (50 ** (torch.arange(width // 4) / (width // 4)))
    angle = grid[:, None] * rate[None]
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    rows = wave[:, None].expand(n, n, width // 2)
    columns = wave[None].expand(n, n, width // 2)
    return torch.cat([rows, columns], -1).reshape(n * n, width)


def init_linear(module):
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=0.8 * m.in_features ** -0.5)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class EncoderBlock(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        b, n, d = x.shape
        y = self.ln1(x)
        q, k, v = (p(y).view(b, n, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))


class Encoder(nn.Module):
    def __init__(self, size, patch, width, layers, heads, hidden, shuffle, out):
        super().__init__()
        self.patch, self.grid, self.shuffle = patch, size // patch, shuffle
        self.embed = nn.Linear(3 * patch * patch, width)  # columns: channel, row, column
        self.delta = nn.Linear(3 * patch * patch, width, bias=False)  # of the look before minus this one
        self.position = nn.Parameter(0.5 * sines_2d(self.grid, width))
        self.blocks = nn.ModuleList([EncoderBlock(width, heads, hidden) for _ in range(layers)])
        self.post = nn.LayerNorm(width, eps=1e-6)
        self.connector = nn.Linear(width * shuffle ** 2, out, bias=False)
        init_linear(self)
        nn.init.zeros_(self.delta.weight)
        for block in self.blocks:
            block.o.weight.data.mul_(0.3)
            block.down.weight.data.mul_(0.3)

    def cut(self, pixels):
        """[B, H, W, 3] in bytes or their differences -> [B, n_patches, 3 * patch * patch], a byte over 127.5"""
        b, g, p = pixels.shape[0], self.grid, self.patch
        return (pixels.float() / 127.5).view(b, g, p, g, p, 3).permute(0, 1, 3, 5, 2, 4).reshape(b, g * g, 3 * p * p)

    def patches(self, pixels, before=None):
        """[B, H, W, 3] bytes, those of the look before or None -> [B, n_patches, width] after the post norm"""
        x = self.embed(self.cut(pixels) - 1) + self.position
        if before is not None:
            x = x + self.delta(self.cut(before.float() - pixels.float()))
        for block in self.blocks:
            x = block(x)
        return self.post(x)

    def shuffled(self, x):
        """[B, n_patches, width] -> [B, n_tokens, shuffle^2 * width]: the s x s patches in raster order"""
        b, _, d = x.shape
        g, s = self.grid // self.shuffle, self.shuffle
        return x.view(b, g, s, g, s, d).permute(0, 1, 3, 2, 4, 5).reshape(b, g * g, s * s * d)

    def forward(self, pixels, before=None):
        """[B, H, W, 3] bytes -> [B, n_tokens, out]"""
        return self.connector(self.shuffled(self.patches(pixels, before)))

    def load(self, state):
        """a checkpoint, which may be one from before the encoder saw change"""
        self.load_state_dict({"delta.weight": torch.zeros_like(self.delta.weight), **state})

    def look_on(self, pixels):
        """[n, H, W, 3] of n looks that follow each other -> [n, n_tokens, out]; nothing is known before the first"""
        before = torch.cat([pixels[:1], pixels[:-1]])
        return torch.cat([self(*x) for x in zip(pixels.split(32), before.split(32))])


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def rope_table(n, head_dim, base=10000.0):
    angle = torch.arange(n).double()[:, None] * base ** (-torch.arange(0, head_dim, 2).double() / head_dim)[None]
    return angle.cos().float(), angle.sin().float()


def rope(x, cos, sin):
    """x: [B, heads, n, D], halves rotate together"""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class DecoderBlock(nn.Module):
    def __init__(self, width, heads, kv_heads, head_dim, hidden):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.q = nn.Linear(width, heads * head_dim, bias=False)
        self.k = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o = nn.Linear(heads * head_dim, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.seen = None  # (q, k) of the last forward, for attention supervision

    def forward(self, x, cos, sin, mask=None, cache=None):
        b, n, _ = x.shape
        y = self.norm1(x)
        q = rope(self.q(y).view(b, n, self.heads, self.head_dim).transpose(1, 2), cos, sin)
        k = rope(self.k(y).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2), cos, sin)
        v = self.v(y).view(b, n, self.kv_heads, self.head_dim).transpose(1, 2)
        if cache is not None:
            if cache[0] is not None:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[0], cache[1] = k, v
        self.seen = (q, k)
        share = self.heads // self.kv_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1).to(q.dtype)
        if mask is None:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=n == k.shape[2])
        else:  # three times faster on CPUs than the fused one with a mask
            q, parts, end = q * self.head_dim ** -0.5, [], 0
            for part in q.split(CHUNK, 2):  # nothing looks ahead: early queries skip the late keys
                at, end = end, end + part.shape[2]
                scores = part @ k[:, :, :end].transpose(-1, -2) + mask[:, :, at:end, :end]
                parts.append(torch.softmax(scores, -1) @ v[:, :, :end])
            a = torch.cat(parts, 2)
        x = x + self.o(a.transpose(1, 2).reshape(b, n, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, kv_heads, head_dim, hidden, tap=3):
        super().__init__()
        self.tap = tap  # the residual stream after this many layers is returned too
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.blocks = nn.ModuleList([DecoderBlock(width, heads, kv_heads, head_dim, hidden) for _ in range(layers)])
        self.norm = RMSNorm(width)
        init_linear(self)
        for block in self.blocks:
            block.o.weight.data.mul_(0.3)
            block.down.weight.data.mul_(0.3)
        cos, sin = rope_table(8192, head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x, mask=None, positions=None):
        """x: [B, n, width]; mask: [B or 1, 1, n, n], added to the scores, None: causal; positions: [B, n]"""
        n = x.shape[1]
        if positions is None:
            cos, sin = self.cos[:n], self.sin[:n]
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        if torch.is_autocast_enabled("cpu"):
            cos, sin = cos.to(HALF), sin.to(HALF)
        tapped = None
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask)
            if i + 1 == self.tap:
                tapped = x
        return x, tapped

    def logits(self, x):
        return F.linear(self.norm(x), self.embed.weight)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps, for matrices inside blocks."""

    def __init__(self, parameters, lr, momentum=0.95, decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p)
                state["m"].lerp_(p.grad, 1 - group["momentum"])
                u = p.grad.lerp(state["m"], group["momentum"]).to(HALF)
                tall = u.shape[0] > u.shape[1]
                u = u.T if tall else u
                u = u / (u.norm() + 1e-7)
                for _ in range(5):
                    a = u @ u.T
                    u = 3.4445 * u + (-4.7750 * a + 2.0315 * (a @ a)) @ u
                u = u.T if tall else u
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(u.float(), alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


class Optimizers:
    """Muon for the matrices of blocks, the connector and change, AdamW for the rest, one factor for both rates."""

    def __init__(self, modules, lr_muon, lr_adam):
        matrices, rest = [], []
        for module in modules:
            for name, p in module.named_parameters():
                if p.requires_grad:
                    (matrices if p.ndim == 2 and ("blocks" in name or "connector" in name or "delta" in name) else rest).append(p)
        self.parts = [(Muon(matrices, lr_muon), lr_muon), (torch.optim.AdamW(rest, lr_adam, (0.9, 0.98), weight_decay=0.01), lr_adam)]

    def step(self, factor):
        for optimizer, lr in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Average:
    """The weights' running mean, which quantises and generalises better than the last step's."""

    def __init__(self, module, keep=0.995):
        self.live, self.keep, self.module = module, keep, copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def step(self, averaging):
        for mean, p in zip(self.module.parameters(), self.live.parameters()):
            mean.lerp_(p, 1 - self.keep if averaging else 1.0)


def schedule(step, progress, warmup=40, decay_from=0.6, floor=0.02):
    """warm-up by steps, then constant, then linear decay over the rest of the time"""
    if progress < decay_from or decay_from >= 1:
        return min(1, (step + 1) / warmup)
    return max(floor, (1 - progress) / (1 - decay_from))


def join(rank, port):
    """one of two processes that share their gradients"""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)


def share_gradients(modules, progress):
    """Averages gradients and the clock over both processes, so that they stay one model."""
    parameters = [p for m in modules for p in m.parameters()]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters] + [torch.tensor([progress])])
    torch.distributed.all_reduce(flat)
    flat /= 2
    at = 0
    for p in parameters:
        p.grad.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()
    return flat[-1].item()
