"""Puts the trained networks together as a diffusers folder in fp16 safetensors."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from . import networks
from .tokenizer import write_tokenizer
from .train_unet import NOISE_SCHEDULE

SCHEDULER_CONFIG = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.42.1",
    **NOISE_SCHEDULE,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    # For the samplers a client may ask for instead: SD 1.x's own values.
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def main() -> None:
    """Read `<training>/unet.pt` and `vae.pt`, write the model into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    out: Path = args.out
    tokenizer = write_tokenizer(out / "tokenizer")
    # diffusers and transformers of every age read the pair vocab.json and merges.txt; one truth is enough.
    (out / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    saved = torch.load(args.training / "unet.pt")
    unet, text, vae = networks.unet(), networks.text_encoder(len(tokenizer)), networks.autoencoder()
    unet.load_state_dict(saved["unet_ema"])
    text.load_state_dict(saved["text_ema"])
    vae.load_state_dict(torch.load(args.training / "vae.pt"))
    for module, name in ((unet, "unet"), (text, "text_encoder"), (vae, "vae")):
        shutil.rmtree(out / name, ignore_errors=True)
        module.half().save_pretrained(out / name, safe_serialization=True)
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", SCHEDULER_CONFIG["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600, which another user's server could not read
    total = sum(file.stat().st_size for folder in ("unet", "vae", "text_encoder", "tokenizer") for file in (out / folder).rglob("*"))
    print(f"{total / 2**20:.1f} MB, trained for {saved['step']} steps")


if __name__ == "__main__":
    main()
