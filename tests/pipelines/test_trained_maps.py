"""Maps by trained annotators are what the networks themselves tell, drawn as control nets were shown them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene
from torch import Tensor
from torch.nn import functional

from sdapi.catalog import ModelBroken
from sdapi.catalog.annotators import Annotators
from sdapi.domain.control_maps import AnnotatorName, ControlMap, annotator_of
from sdapi.domain.errors import InvalidRequest
from sdapi.pipelines.control.annotators import Map, rgb_of
from sdapi.pipelines.trained_maps.ade20k import PALETTE
from sdapi.pipelines.trained_maps.faces import Face, draw_faces
from sdapi.pipelines.trained_maps.reading import read_annotator
from sdapi.pipelines.trained_maps.skeleton import Pose, draw_skeletons

from .annotator_files import (
    HED_BLOCKS,
    hed_tensors,
    install_depth,
    install_file,
    install_openpose,
    install_segmentation,
    line_drawing_tensors,
)
from .face_onnx import FACE_PX, POINTS, write_face_model

ROUNDING = 1e-4


def a_picture() -> Image.Image:
    picture: Image.Image = draw(Scene(shape="star", colour="green", background="white"), 88, 64)
    return picture


def the_map(models_dir: Path, kind: ControlMap) -> Map:
    installed = Annotators(models_dir).installed()
    name = annotator_of(kind, installed)
    assert name is not None
    made = read_annotator(installed[name], device=torch.device("cpu")).map_of(kind, rgb_of(a_picture()))
    assert made.shape == (64, 88, 3)
    assert made.dtype == np.float32
    assert 0 <= made.min() < made.max() <= 1
    return made


def told_depth(folder: Path) -> Any:
    """By transformers' own pipeline."""
    network = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=a_picture(), return_tensors="pt")
    with torch.inference_mode():
        return processor, network(**inputs)


def test_depth_is_what_the_model_tells_with_the_nearest_white(tmp_path: Path) -> None:
    processor, outputs = told_depth(install_depth(tmp_path))
    depth = processor.post_process_depth_estimation(outputs, target_sizes=[(64, 88)])[0]["predicted_depth"].numpy()
    expected = (depth - depth.min()) / (depth.max() - depth.min())
    made = the_map(tmp_path, ControlMap.DEPTH)
    assert np.abs(made - expected[:, :, None]).max() < ROUNDING


def test_normals_are_the_slopes_of_that_depth(tmp_path: Path) -> None:
    _, outputs = told_depth(install_depth(tmp_path))
    depth = outputs.predicted_depth[0].numpy()
    slopes = [cv2.Sobel(depth, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(depth, cv2.CV_32F, 0, 1, ksize=3)]
    for slope in slopes:
        slope[(depth - depth.min()) / (depth.max() - depth.min()) < 0.4] = 0
    length = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + (2 * np.pi) ** 2)
    expected = np.stack([cv2.resize(part / length, (88, 64)) for part in (*slopes, np.full_like(depth, 2 * np.pi))], axis=2) / 2 + 0.5
    made = the_map(tmp_path, ControlMap.NORMAL)
    assert np.abs(made - expected).max() < ROUNDING
    assert made[..., :2].std() > 0


def test_segmentation_paints_every_class_in_its_colour_of_ade20k(tmp_path: Path) -> None:
    folder = install_segmentation(tmp_path)
    network = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        outputs = network(**processor(images=a_picture(), return_tensors="pt"))
    classes = processor.post_process_semantic_segmentation(outputs, target_sizes=[(64, 88)])[0].numpy()
    made = the_map(tmp_path, ControlMap.SEGMENTATION)
    assert len(np.unique(classes)) > 1
    assert np.array_equal((made * 255).round(), PALETTE[classes])


def test_the_palette_is_that_of_ade20k() -> None:
    assert PALETTE.shape == (150, 3)
    wall, building, sky, person, last = (tuple(PALETTE[label].tolist()) for label in (0, 1, 2, 12, 149))
    assert (wall, building, sky, person, last) == ((120, 120, 120), (180, 120, 120), (6, 230, 230), (150, 5, 61), (92, 0, 255))


def hed_by_hand(tensors: dict[str, Tensor]) -> Tensor:
    x = torch.from_numpy(np.array(a_picture(), dtype=np.float32)).permute(2, 0, 1)[None] - tensors["norm"]
    scales = []
    for number, (_, _, convolutions) in enumerate(HED_BLOCKS, start=1):
        x = x if number == 1 else functional.max_pool2d(x, (2, 2), stride=(2, 2))
        for layer in range(convolutions):
            name = f"block{number}.convs.{layer}"
            x = functional.relu(functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1))
        edge = functional.conv2d(x, tensors[f"block{number}.projection.weight"], tensors[f"block{number}.projection.bias"])
        scales.append(cv2.resize(edge[0, 0].numpy(), (88, 64), interpolation=cv2.INTER_LINEAR))
    return torch.sigmoid(torch.from_numpy(np.stack(scales).mean(axis=0)))


def line_drawing_by_hand(tensors: dict[str, Tensor]) -> Tensor:
    def convolved(x: Tensor, name: str, pad: int = 0, **how: int) -> Tensor:
        x = functional.pad(x, (pad,) * 4, mode="reflect") if pad else x
        return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **how)

    def normed(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=(2, 3), keepdim=True)
        return centred / (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()

    x = torch.from_numpy(np.array(a_picture(), dtype=np.float32) / 255).permute(2, 0, 1)[None]
    x = normed(convolved(x, "model0.1", pad=3)).relu()
    for name in ("model1.0", "model1.3"):
        x = normed(convolved(x, name, stride=2, padding=1)).relu()
    for block in range(3):
        inner = normed(convolved(x, f"model2.{block}.conv_block.1", pad=1)).relu()
        x = x + normed(convolved(inner, f"model2.{block}.conv_block.5", pad=1))
    for name in ("model3.0", "model3.3"):
        weights = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        x = normed(functional.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)).relu()
    return 1 - torch.sigmoid(convolved(x, "model4.1", pad=3))[0, 0]


@pytest.mark.parametrize(
    ("name", "tensors", "by_hand", "kinds"),
    [
        ("hed", hed_tensors, hed_by_hand, (ControlMap.HED, ControlMap.SOFTEDGE)),
        ("lineart", line_drawing_tensors, line_drawing_by_hand, (ControlMap.LINEART,)),
    ],
)
def test_lines_are_those_of_the_network_worked_out_by_hand(
    tmp_path: Path,
    name: str,
    tensors: Callable[[], dict[str, Tensor]],
    by_hand: Callable[[dict[str, Tensor]], Tensor],
    kinds: tuple[ControlMap, ...],
) -> None:
    install_file(tmp_path, name, tensors())
    expected = by_hand(tensors()).numpy()
    for kind in kinds:
        assert np.abs(the_map(tmp_path, kind) - expected[:, :, None]).max() < ROUNDING


def test_a_picture_of_odd_sides_has_lines_of_its_own_size(tmp_path: Path) -> None:
    install_file(tmp_path, "lineart", line_drawing_tensors())
    annotator = read_annotator(Annotators(tmp_path).installed()[AnnotatorName.LINEART], device=torch.device("cpu"))
    assert annotator.map_of(ControlMap.LINEART, rgb_of(a_picture().resize((71, 66)))).shape == (66, 71, 3)


def test_skeletons_are_drawn_where_the_two_models_find_joints(tmp_path: Path) -> None:
    folder = install_openpose(tmp_path)
    people, people_processor = (
        kind.from_pretrained(folder / "people") for kind in (transformers.AutoModelForObjectDetection, transformers.RTDetrImageProcessorPil)
    )
    pose, pose_processor = (
        kind.from_pretrained(folder / "pose") for kind in (transformers.VitPoseForPoseEstimation, transformers.VitPoseImageProcessorPil)
    )
    with torch.inference_mode():
        seen = people(**people_processor(images=a_picture(), return_tensors="pt"))
        found = people_processor.post_process_object_detection(seen, threshold=0.3, target_sizes=[(64, 88)])[0]
        boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in found["boxes"].tolist()]
        joints = pose_processor.post_process_pose_estimation(
            pose(**pose_processor(images=a_picture(), boxes=[boxes], return_tensors="pt")), boxes=[boxes]
        )[0]
    poses = [Pose(one["keypoints"].numpy(), (one["scores"] >= 0.3).numpy()) for one in joints]
    assert any(pose.is_seen.any() for pose in poses)
    assert np.array_equal(the_map(tmp_path, ControlMap.OPENPOSE), draw_skeletons(poses, 64, 88))


def a_person(**hidden: bool) -> Pose:
    """Upright, looking at us, in 256 x 256; the person's right is at our left."""
    joints = {
        "nose": (128, 40), "left eye": (136, 32), "right eye": (120, 32), "left ear": (146, 36), "right ear": (110, 36),
        "left shoulder": (158, 80), "right shoulder": (98, 80), "left elbow": (178, 120), "right elbow": (78, 120),
        "left wrist": (188, 160), "right wrist": (68, 160), "left hip": (148, 160), "right hip": (108, 160),
        "left knee": (150, 200), "right knee": (106, 200), "left ankle": (152, 240), "right ankle": (104, 240),
    }  # fmt: skip
    seen = [not hidden.get(name.replace(" ", "_"), False) for name in joints]
    return Pose(np.array(list(joints.values()), dtype=np.float32), np.array(seen))


def colour_at(drawn: Map, x: float, y: float) -> tuple[int, ...]:
    return tuple((drawn[round(y), round(x)] * 255).round().astype(int).tolist())


def test_joints_and_limbs_have_openposes_colours() -> None:
    drawn = draw_skeletons([a_person()], 256, 256)
    joints = {(128, 40): (255, 0, 0), (128, 80): (255, 85, 0), (98, 80): (255, 170, 0), (68, 160): (170, 255, 0), (158, 80): (85, 255, 0)}
    joints |= {(188, 160): (0, 255, 85), (108, 160): (0, 255, 170), (104, 240): (0, 170, 255), (148, 160): (0, 85, 255)}
    joints |= {(152, 240): (85, 0, 255), (120, 32): (170, 0, 255), (136, 32): (255, 0, 255), (110, 36): (255, 0, 170)}
    assert {place: colour_at(drawn, *place) for place in joints} == joints
    upper_right_arm, left_shin = colour_at(drawn, 88, 100), colour_at(drawn, 151, 220)
    assert (upper_right_arm, left_shin) == ((153, 102, 0), (0, 51, 153)), "six tenths of the colours of the 3rd and the 12th limb"
    assert colour_at(drawn, 10, 10) == (0, 0, 0)


def test_what_is_not_seen_is_not_drawn_and_an_arm_ends_there() -> None:
    drawn = draw_skeletons([a_person(right_elbow=True, left_shoulder=True)], 256, 256)
    assert colour_at(drawn, 88, 100) == colour_at(drawn, 73, 140) == (0, 0, 0), "no arm without its elbow"
    assert colour_at(drawn, 128, 80) == (0, 0, 0), "no neck without both shoulders"
    assert colour_at(drawn, 106, 200) != (0, 0, 0)


def test_nobody_is_black_and_two_are_drawn_both() -> None:
    assert not draw_skeletons([], 64, 64).any()
    beside = Pose((a_person().points / 2 + [120, 0]).astype(np.float32), a_person().is_seen)
    both = draw_skeletons([a_person(), beside], 256, 256)
    assert colour_at(both, 68, 160) == (170, 255, 0)
    assert colour_at(both, 34 + 120, 80) == (170, 255, 0)


def test_a_face_is_drawn_with_its_parts_where_they_are() -> None:
    points = np.array([[100, 110], [140, 110], [120, 130], [105, 150], [135, 150]], dtype=np.float32)
    drawn = draw_faces([Face((70, 60, 100, 120), points)], 256, 256)
    head, mouth, right_eye, left_eye = (10, 200, 10), (10, 180, 10), (180, 200, 10), (10, 200, 180)
    assert colour_at(drawn, 70, 120) == colour_at(drawn, 120, 180) == head
    assert colour_at(drawn, 105, 150) == mouth
    assert colour_at(drawn, 92, 110) == right_eye
    assert colour_at(drawn, 148, 110) == left_eye
    assert not draw_faces([], 64, 64).any()


def test_faces_are_drawn_where_the_detector_finds_them(tmp_path: Path) -> None:
    write_face_model(tmp_path / "annotators" / "face_detector" / "yunet.onnx", width=96, height=64)
    annotator = read_annotator(Annotators(tmp_path).installed()[AnnotatorName.FACE_DETECTOR], device=torch.device("cpu"))
    rgb = np.zeros((64, 96, 3), dtype=np.uint8)
    assert not annotator.map_of(ControlMap.FACE_DETECTOR, rgb).any()
    rgb[24:32, 56:64] = (255, 0, 0)
    rgb[8:16, 8:16] = (0, 0, 255)
    points = np.array([(60 + 8 * x, 28 + 8 * y) for x, y in POINTS], dtype=np.float32)
    expected = draw_faces([Face((60 - FACE_PX / 2, 28 - FACE_PX / 2, FACE_PX, FACE_PX), points)], 64, 96)
    assert np.array_equal(annotator.map_of(ControlMap.FACE_DETECTOR, rgb), expected)


@pytest.mark.parametrize(
    ("name", "install", "damaged", "says"),
    [
        (AnnotatorName.DEPTH, install_depth, "model.safetensors", "models/annotators/depth/ can't be loaded"),
        (AnnotatorName.DEPTH, install_depth, "config.json", "models/annotators/depth/ can't be loaded"),
        (AnnotatorName.OPENPOSE, install_openpose, "people/preprocessor_config.json", "models/annotators/openpose/ can't be loaded"),
        (AnnotatorName.HED, lambda folder: install_file(folder, "hed", hed_tensors()), "model.safetensors", "hed/ can't be loaded"),
        (AnnotatorName.HED, lambda folder: install_file(folder, "hed", {"x": torch.ones(1)}), None, "The weight norm is missing"),
        (AnnotatorName.SEGMENTATION, lambda folder: install_segmentation(folder, classes=19), None, "It knows 19 classes"),
    ],
)
def test_what_is_damaged_or_something_else_is_refused_in_a_sentence(
    tmp_path: Path, name: AnnotatorName, install: Callable[[Path], Path], damaged: str | None, says: str
) -> None:
    folder = install(tmp_path)
    if damaged is not None:
        (folder / damaged).write_bytes(b"{" * 100)
    with pytest.raises(ModelBroken, match=says):
        read_annotator(Annotators(tmp_path).installed()[name], device=torch.device("cpu"))


def test_a_face_detector_that_opencv_can_not_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "annotators" / "face_detector"
    folder.mkdir(parents=True)
    (folder / "yunet.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelBroken, match="OpenCV can't read it"):
        read_annotator(Annotators(tmp_path).installed()[AnnotatorName.FACE_DETECTOR], device=torch.device("cpu"))


def test_what_is_not_installed_is_refused_with_what_to_put_where() -> None:
    for kind in ("depth", "normal", "hed", "openpose", "segmentation", "face_detector"):
        with pytest.raises(InvalidRequest, match=r"put .* into models/annotators/") as refusal:
            annotator_of(ControlMap(kind), ())
        assert kind in str(refusal.value)
    assert {annotator_of(kind, ()) for kind in (ControlMap.SOFTEDGE, ControlMap.LINEART, ControlMap.CANNY)} == {None}
    assert annotator_of(ControlMap.SOFTEDGE, {AnnotatorName.HED}) is AnnotatorName.HED


def test_an_incomplete_or_unknown_folder_is_a_problem_and_not_installed(tmp_path: Path) -> None:
    (install_depth(tmp_path) / "preprocessor_config.json").unlink()
    (tmp_path / "annotators" / "hed").mkdir()
    (tmp_path / "annotators" / "midas").mkdir()
    annotators = Annotators(tmp_path)
    assert annotators.installed() == {}
    said = {problem.path.name: problem.sentence for problem in annotators.problems()}
    assert "preprocessor_config.json is missing" in said["depth"]
    assert "no .safetensors file" in said["hed"]
    assert "No annotator is called so" in said["midas"]
