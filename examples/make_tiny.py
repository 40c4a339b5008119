"""Writes tiny/: a CCL model of 160,000 random parameters, and latents to try every task on.

    pip install numpy safetensors
    python make_tiny.py                   # beside this file; --out DIR writes it elsewhere

    tiny/config.json           the model: two blocks, video 48 wide, audio 32 wide
    tiny/weights.safetensors   float32, canonical names
    tiny/inputs.safetensors    text, negative_text [1,7,24]; clean latents video [1,4,5,8,8] and audio [1,6,29],
                               which v2a and a2v read as their reference stream

It has learnt nothing, so its samples are no film; they show that a setup works and how every command is used.  Weights
are scaled by one over the square root of their inputs: activations stay of order one and each path, the cross-modal one
included, moves the result.  Written by Python 3.11, numpy 2.4.6 and safetensors 0.8.0.
"""
import argparse
import json
import math
import pathlib

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "video": {"dim": 48, "ffn_dim": 96, "heads": 2, "in_channels": 4, "out_channels": 4, "patch": [1, 2, 2]},
    "audio": {"dim": 32, "ffn_dim": 64, "heads": 1, "in_channels": 6, "out_channels": 6, "patch": [1]},
    "layers": 2,
    "text_dim": 24,
    "freq_dim": 32,
    "eps": 1e-06,
    "rope_theta": 10000.0,
    "image_dim": 0,
    "audio_context_tokens": 4,
    "video_context_tokens": 8,
    "window_frames": 3,
    "window_center": "proportional",     # the clip has 29 audio tokens to 5 frames; the paper's centres drift there
    "window_edge": "mask",
}
FRAMES, HEIGHT, WIDTH, LENGTH = 5, 8, 8, 29
TEXT_TOKENS = 7


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint without image features, and its shape."""
    out: dict[str, tuple[int, ...]] = {}

    def linear(name, rows, columns):
        out[f"{name}.weight"], out[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name, width):
        out[f"{name}.weight"] = out[f"{name}.bias"] = (width,)

    for stream, other, context in (("video", "audio", config["audio_context_tokens"]),
                                   ("audio", "video", config["video_context_tokens"])):
        s, width_other = config[stream], config[other]["dim"]
        d = s["dim"]
        out[f"{stream}.patch_embedding.weight"] = (d, s["in_channels"], *s["patch"])
        out[f"{stream}.patch_embedding.bias"] = (d,)
        linear(f"{stream}.text_embedding.0", d, config["text_dim"])
        linear(f"{stream}.text_embedding.2", d, d)
        linear(f"{stream}.time_embedding.0", d, config["freq_dim"])
        linear(f"{stream}.time_embedding.2", d, d)
        linear(f"{stream}.time_projection.1", 6 * d, d)
        for n in range(config["layers"]):
            block = f"{stream}.blocks.{n}"
            out[f"{block}.modulation"] = (1, 6, d)
            for attention in ("self_attn", "cross_attn"):
                for x in "qkvo":
                    linear(f"{block}.{attention}.{x}", d, d)
            for x, columns in (("q", d), ("k", width_other), ("v", width_other), ("o", d),
                               ("context_k", d), ("context_v", d)):
                linear(f"{block}.cca.{x}", d, columns)
            for attention in ("self_attn", "cross_attn", "cca"):
                out[f"{block}.{attention}.norm_q.weight"] = out[f"{block}.{attention}.norm_k.weight"] = (d,)
            norm(f"{block}.norm3", d)
            norm(f"{block}.cca.norm", d)
            norm(f"{block}.cca.norm_other", width_other)
            out[f"{block}.cca.context"] = (context, d)
            linear(f"{block}.ffn.0", s["ffn_dim"], d)
            linear(f"{block}.ffn.2", d, s["ffn_dim"])
        out[f"{stream}.head.modulation"] = (1, 2, d)
        linear(f"{stream}.head.head", math.prod(s["patch"]) * s["out_channels"], d)
    return out


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal(shape)
    if name.endswith(".weight") and len(shape) == 1:      # a norm's scale
        x = 1 + 0.1 * x
    elif name.endswith(".bias"):
        x = 0.1 * x
    elif name.endswith((".modulation", ".context")):
        x = 0.3 * x
    else:
        x = x / math.sqrt(math.prod(shape[1:]))
    return x.astype(np.float32)


def clip(config: dict, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A blob that crosses the frame and, in step with it, a sound that swells and fades: latents of unit variance."""
    axes = np.linspace(0, 1, FRAMES), np.linspace(-1, 1, HEIGHT), np.linspace(-1, 1, WIDTH)
    t, y, x = np.meshgrid(*axes, indexing="ij")
    blob = np.exp(-((x - (2 * t - 1)) ** 2 + (y - 0.5 * np.sin(math.pi * t)) ** 2) / 0.2)
    swell = np.sin(math.pi * (np.arange(LENGTH) + 0.5) / LENGTH) ** 2

    def channels(pattern, count):
        mix = rng.standard_normal((count,) + (1,) * pattern.ndim)
        latent = mix * pattern + 0.1 * rng.standard_normal((count, *pattern.shape))
        return ((latent - latent.mean()) / latent.std())[None].astype(np.float32)

    return channels(blob, config["video"]["out_channels"]), channels(swell, config["audio"]["out_channels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "tiny",
                        help="model directory to write (default: tiny/ beside this script)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)

    weights = {name: draw(name, shape, rng) for name, shape in shapes(CONFIG).items()}
    video, audio = clip(CONFIG, rng)
    text = (1, TEXT_TOKENS, CONFIG["text_dim"])
    inputs = {"video": video, "audio": audio, "text": rng.standard_normal(text).astype(np.float32),
              "negative_text": rng.standard_normal(text).astype(np.float32)}

    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file(weights, out / "weights.safetensors")
    save_file(inputs, out / "inputs.safetensors")
    for file in sorted(out.iterdir()):
        file.chmod(0o644)
        print(f"{file.name}: {file.stat().st_size} bytes")
    print(f"{sum(w.size for w in weights.values())} parameters")


if __name__ == "__main__":
    main()
