"""Trained annotators that nobody trained: tiny real models of transformers, and real networks with random weights, as installed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessorPil,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessorPil,
)

HED_BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))


def install_depth(models_dir: Path, *, seed: int = 1) -> Path:
    """A DPT that sees 32 x 32 pixels."""
    folder = models_dir / "annotators" / "depth"
    torch.manual_seed(seed)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_in_index=-1, is_hybrid=False,
    )  # fmt: skip
    network = DPTForDepthEstimation(config)
    with torch.no_grad():
        # As transformers fills it, it tells one depth for all pictures.
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        network.head.head[-2].bias.fill_(2.0)
    network.save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def install_segmentation(models_dir: Path, *, classes: int = 150) -> Path:
    """A SegFormer that sees 32 x 32 pixels."""
    folder = models_dir / "annotators" / "segmentation"
    torch.manual_seed(2)
    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=classes,
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def install_openpose(models_dir: Path) -> Path:
    """A VitPose that sees 32 x 24 pixels, and an RT-DETR that finds people in anything."""
    folder = models_dir / "annotators" / "openpose"
    torch.manual_seed(3)
    backbone = VitPoseBackboneConfig(
        image_size=[32, 24], patch_size=[8, 8], hidden_size=16, num_hidden_layers=2, num_attention_heads=2, out_indices=[2],
    )  # fmt: skip
    VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17)).save_pretrained(folder / "pose")
    VitPoseImageProcessorPil(size={"height": 32, "width": 24}).save_pretrained(folder / "pose")
    resnet = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage2", "stage3", "stage4"]
    )
    config = RTDetrConfig(
        backbone_config=resnet, encoder_hidden_dim=16, encoder_in_channels=[8, 16, 16], encoder_ffn_dim=16, encoder_attention_heads=2,
        d_model=16, num_queries=4, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_layers=1, decoder_attention_heads=2,
        decoder_n_points=2, num_denoising=0, id2label={0: "person", 1: "dog"}, label2id={"person": 0, "dog": 1},
    )  # fmt: skip
    network = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for layer in network.model.decoder.class_embed:
            layer.bias.copy_(torch.tensor([3.0, -9.0]))
    network.save_pretrained(folder / "people")
    RTDetrImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "people")
    return folder


def hed_tensors() -> dict[str, Tensor]:
    """Under the names of ControlNet's own file."""
    torch.manual_seed(4)
    tensors = {"norm": torch.full((1, 3, 1, 1), 120.0)}
    for number, (channels_in, channels_out, convolutions) in enumerate(HED_BLOCKS, start=1):
        for layer in range(convolutions):
            width = channels_in if layer == 0 else channels_out
            tensors[f"block{number}.convs.{layer}.weight"] = torch.randn(channels_out, width, 3, 3) * (2 / (9 * width)) ** 0.5
            tensors[f"block{number}.convs.{layer}.bias"] = torch.randn(channels_out) * 0.1
        tensors[f"block{number}.projection.weight"] = torch.randn(1, channels_out, 1, 1) * 0.001
        tensors[f"block{number}.projection.bias"] = torch.randn(1) * 0.1
    return tensors


def line_drawing_tensors() -> dict[str, Tensor]:
    """Under the names of informative-drawings' own file."""
    torch.manual_seed(5)
    shapes = {
        "model0.1": (64, 3, 7, 7), "model1.0": (128, 64, 3, 3), "model1.3": (256, 128, 3, 3),
        **{f"model2.{block}.conv_block.{layer}": (256, 256, 3, 3) for block in range(3) for layer in (1, 5)},
        "model3.0": (256, 128, 3, 3), "model3.3": (128, 64, 3, 3), "model4.1": (1, 64, 7, 7),
    }  # fmt: skip
    tensors = {f"{name}.weight": torch.randn(shape) * 0.05 for name, shape in shapes.items()}
    # Transposed convolutions have their outputs second.
    outputs = {name: shape[1] if name.startswith("model3.") else shape[0] for name, shape in shapes.items()}
    return tensors | {f"{name}.bias": torch.randn(count) * 0.05 for name, count in outputs.items()}


def install_file(models_dir: Path, name: str, tensors: dict[str, Tensor]) -> Path:
    """An annotator that is one file of tensors."""
    folder = models_dir / "annotators" / name
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder
