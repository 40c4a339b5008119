"""Writes small Wan2.1 checkpoints and the velocities that diffusers itself computes from them.

A CCL stream whose cross-modal attention adds nothing (as in a fresh one, whose output projection is zero) is a Wan2.1
transformer.  diffusers' WanTransformer3DModel is therefore an oracle for the backbone that shares no code with us, and
its files show whether checkpoints load by the names that people have them under.  Three directories, random weights:

    wan-t2v        text to video, as diffusers saves it: its config.json, shards and their index
    wan-i2v        image to video: 36 input channels (latent, then condition) and image features, the same way
    wan-original   the weights of wan-t2v under Wan2.1's own names in one file, with Wan2.1's own config.json.
                   Wan2.1 does not write `text_dim`, which is 4096 in every release; this small file needs it.

Each also holds, in float32:

    inputs.safetensors     video [B,16,T,H,W], video_condition [B,20,T,H,W] (i2v), text and negative_text [B,tokens,32],
                           image [B,257,20] (i2v), t [B] in [0, 1], noise.video
    expected.safetensors   velocity.t2v.video [B,16,T,H,W]: diffusers' forward in float64 on the float32 weights and
                           inputs, at timestep 1000 t.  diffusers rounds to float32 inside (norms, time features), so
                           that these numbers are good to about 2e-6.

Text is 512 tokens long in wan-i2v because diffusers takes whatever precedes the last 512 tokens for the image.

The files here were written on a CPU by Python 3.11, torch 2.15.0, diffusers 0.42.1 and safetensors 0.8.0:

    pip install torch diffusers safetensors
    python make_checkpoints.py            # beside this file; --out DIR writes them elsewhere
"""
import argparse
import json
import pathlib

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

HEADS, HEAD_DIM, LAYERS, FFN_DIM = 2, 24, 2, 96
TEXT_DIM, FREQ_DIM = 32, 64
LATENT, CONDITION = 16, 20           # channels
IMAGE_DIM, IMAGE_TOKENS = 20, 257
GRID = (3, 8, 12)                    # latent frames, rows, columns

# diffusers' part of a name -> Wan2.1's, applied in this order.  diffusers' norm2 is Wan2.1's norm3; the norms that
# either calls norm1, and the other one's norm2, have no weights.
WAN_NAMES = [
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".norm2.", ".norm3."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table", ".modulation"),
    ("proj_out.", "head.head."),
]

WAN_CONFIG = {
    "_class_name": "WanModel", "model_type": "t2v", "dim": HEADS * HEAD_DIM, "ffn_dim": FFN_DIM, "freq_dim": FREQ_DIM,
    "in_dim": LATENT, "num_heads": HEADS, "num_layers": LAYERS, "out_dim": LATENT, "text_len": 512, "eps": 1e-06,
    "text_dim": TEXT_DIM,
}


def wan_name(name: str) -> str:
    """diffusers' name of a text-to-video tensor -> Wan2.1's."""
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, wan in WAN_NAMES:
        name = name.replace(theirs, wan)
    return name


def build(with_image: bool, seed: int) -> WanTransformer3DModel:
    """A float32 model in which no parameter is left at a neutral start (zero biases, unit norms)."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=HEAD_DIM,
        in_channels=LATENT + (CONDITION if with_image else 0), out_channels=LATENT, text_dim=TEXT_DIM,
        freq_dim=FREQ_DIM, ffn_dim=FFN_DIM, num_layers=LAYERS, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        eps=1e-6, image_dim=IMAGE_DIM if with_image else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if with_image else None).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def draw_inputs(with_image: bool, times: list[float], seed: int) -> dict[str, torch.Tensor]:
    """Standard normal float32 inputs, one per name of the module's docstring."""
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = len(times), 512 if with_image else 7
    shapes = {
        "video": (batch, LATENT, *GRID), "noise.video": (batch, LATENT, *GRID),
        "text": (batch, tokens, TEXT_DIM), "negative_text": (batch, tokens, TEXT_DIM),
    }
    if with_image:
        shapes |= {"video_condition": (batch, CONDITION, *GRID), "image": (batch, IMAGE_TOKENS, IMAGE_DIM)}
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return inputs | {"t": torch.tensor(times)}


@torch.no_grad()
def velocity(model: WanTransformer3DModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """diffusers' own forward on a float64 copy of the model."""
    copy = WanTransformer3DModel.from_config(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    x = {name: value.double() for name, value in inputs.items()}
    video = torch.cat([x["video"], x["video_condition"]], dim=1) if "video_condition" in x else x["video"]
    return copy(video, x["t"] * 1000, x["text"], x.get("image"), return_dict=False)[0]


def write_data(folder: pathlib.Path, inputs: dict[str, torch.Tensor], output: torch.Tensor) -> None:
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"velocity.t2v.video": output.float().contiguous()}, folder / "expected.safetensors")


def write_diffusers(folder: pathlib.Path, model: WanTransformer3DModel, shard: str) -> None:
    """As diffusers saves it; `shard` is small enough to make it write several files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("diffusion_pytorch_model*"):
        old.unlink()
    model.save_pretrained(folder, max_shard_size=shard)
    assert (folder / "diffusion_pytorch_model.safetensors.index.json").exists(), f"{folder}: {shard} did not shard"


def write_original(folder: pathlib.Path, model: WanTransformer3DModel) -> None:
    """One file under Wan2.1's names, with Wan2.1's kind of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {wan_name(name): value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(WAN_CONFIG, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent,
                        help="folder that gets the three directories (default: beside this script)")
    out = parser.parse_args().out

    # Times are binary fractions: 1000 t is then exact in float32, which is what diffusers rounds it to.
    model, inputs = build(with_image=False, seed=1), draw_inputs(with_image=False, times=[0.25, 0.875], seed=2)
    output = velocity(model, inputs)
    write_diffusers(out / "wan-t2v", model, shard="100KB")
    write_original(out / "wan-original", model)
    write_data(out / "wan-t2v", inputs, output)
    write_data(out / "wan-original", inputs, output)

    model, inputs = build(with_image=True, seed=3), draw_inputs(with_image=True, times=[0.375, 0.75], seed=4)
    write_diffusers(out / "wan-i2v", model, shard="120KB")
    write_data(out / "wan-i2v", inputs, velocity(model, inputs))

    for folder in ("wan-t2v", "wan-i2v", "wan-original"):
        files = sorted((out / folder).iterdir())
        for file in files:
            file.chmod(0o644)
        print(f"{folder}: {len(files)} files, {sum(file.stat().st_size for file in files)} bytes")


if __name__ == "__main__":
    main()
