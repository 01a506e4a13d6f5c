"""What somebody might really send: a request of generated values alone is nearly always refused for one of them, and tries nothing else."""

from __future__ import annotations

from typing import Any

PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NOWHERE = "http://127.0.0.1:9/"

USUAL: dict[str, Any] = {
    "prompt": "a red circle on a blue background",
    "negative_prompt": "blurry",
    "model_id": "demo",
    "width": "64",
    "height": 64,
    "samples": "1",
    "num_inference_steps": "2",
    "guidance_scale": 7.5,
    "seed": None,
    "strength": 0.5,
    "scheduler": None,
    "clip_skip": 1,
    "lora_model": None,
    "lora_strength": None,
    "embeddings_model": None,
    "vae": None,
    "panorama": "no",
    "self_attention": "no",
    "highres_fix": "no",
    "upscale": "no",
    "multi_lingual": "no",
    "safety_checker": "no",
    "webhook": NOWHERE,
    "track_id": 7,
    "init_image": PICTURE,
    "mask_image": PICTURE,
    "control_image": PICTURE,
    "url": PICTURE,
    "image": PICTURE,
    "base64_image": PICTURE.partition(",")[2],
    "image_type": "png",
    "controlnet_model": "canny",
    "controlnet_type": "canny",
    "controlnet_conditioning_scale": 1,
    "scale": 2,
    "seconds": 2,
    "output_format": "JPG",
    "output_quality": "80",
}
