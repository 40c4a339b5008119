"""Writes tests/cases/training: what 20 steps of PyTorch's AdamW make of the small case's model.

    python scripts/training_case.py REFERENCE

REFERENCE is the directory of `ccl_reference.py`, the PyTorch reference of the model. Everything is computed in float64 and stored as
float32. Times, noise and tasks are drawn here and stored, so that another implementation can do the same steps:

- inputs.safetensors: for each step k `t.K [B]`, `noise.video.K`, `noise.audio.K` (the clean latents and the text are the small case's);
- settings.json: the tasks and learning rates of the steps, AdamW's settings, clip and decay of the average;
- expected.safetensors: `loss.K`, `norm.K` (before clipping), and after the last step every `p.<parameter>`, and of a few parameters the
  average `ema.<parameter>` and the moments `m.<parameter>` and `v.<parameter>`.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, sys.argv[1])
import ccl_reference as ref  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "cases"
OUT = ROOT / "training"
STEPS, LR, BETAS, EPS, DECAY, CLIP, EMA = 20, 2e-3, (0.9, 0.99), 1e-8, 0.01, 1.0, 0.9
TASKS = ["joint", "a2v", "v2a", "t2av", "t2v", "t2a"]
SOME = ["video.blocks.0.cca.q.weight", "video.blocks.1.cca.context", "audio.blocks.1.ffn.0.weight", "audio.head.head.bias"]


def main():
    OUT.mkdir(exist_ok=True)
    small = ROOT / "small"
    raw = json.loads((small / "config.json").read_text())
    streams = {m: ref.StreamConfig(**{**raw[m], "patch": tuple(raw[m]["patch"])}) for m in ("video", "audio")}
    cfg = ref.CclConfig(**{**raw, **streams})
    weights = {k: v.double().requires_grad_(True) for k, v in load_file(small / "weights.safetensors").items()}
    inputs = {k: v.double() for k, v in load_file(small / "inputs.safetensors").items()}
    model = ref.CclReference(cfg, weights)
    params = list(weights.values())
    opt = torch.optim.AdamW(params, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    ema = [p.detach().clone() for p in params]
    g = torch.Generator().manual_seed(20)
    given, expected, tasks, rates = {}, {}, [], []
    for step in range(1, STEPS + 1):
        task = TASKS[int(torch.randint(len(TASKS), (1,), generator=g))]
        lr = LR * min(1, step / 5)
        t = torch.rand(inputs["t"].shape, generator=g).float()
        noise = {m: torch.randn(inputs[m].shape, generator=g).float() for m in ("video", "audio")}
        given.update({f"t.{step}": t, **{f"noise.{m}.{step}": n for m, n in noise.items()}})
        tasks.append(task)
        rates.append(lr)
        for group in opt.param_groups:
            group["lr"] = lr
        batch = {m: inputs[m] for m in ("video", "audio", "text")}
        loss, _ = ref.training_loss(model, task, batch, t.double(), {m: n.double() for m, n in noise.items()})
        opt.zero_grad(set_to_none=True)
        loss.backward()
        # A parameter that only reaches the loss through an absent path has no gradient; one that is exactly zero stays.
        norm = torch.nn.utils.clip_grad_norm_([p for p in params if p.grad is not None], CLIP)
        opt.step()
        keep = min(EMA, (1 + step) / (10 + step))
        for e, p in zip(ema, params):
            e.lerp_(p.detach(), 1 - keep)
        expected[f"loss.{step}"], expected[f"norm.{step}"] = loss.detach(), norm.detach()
    averages = dict(zip(weights, ema))
    expected.update({f"p.{name}": p.detach() for name, p in weights.items()})
    for name in SOME:
        expected[f"ema.{name}"] = averages[name]
        state = opt.state[weights[name]]
        expected[f"m.{name}"], expected[f"v.{name}"] = state["exp_avg"], state["exp_avg_sq"]
    settings = dict(tasks=tasks, rates=rates, betas=BETAS, eps=EPS, weight_decay=DECAY, clip=CLIP, ema=EMA, some=SOME)
    (OUT / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in given.items()}, OUT / "inputs.safetensors")
    save_file({k: v.float().contiguous() for k, v in expected.items()}, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
