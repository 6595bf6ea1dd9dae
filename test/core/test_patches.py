"""Patches: where they are read, how they turn and scale, and the orientation they show."""

import math

import cv2
from kpfeat_core.image import read_image
from kpfeat_core.patches import dominant_orientations, extract_patches, sift_descriptors
from kpfeat_core.registry import build_extractor
import numpy as np
import pytest
import torch

PHOTO = 'kpfeat_core/assets/circuit.jpg'


@pytest.fixture(scope='module')
def photo(request) -> np.ndarray:
    """Return a gray photograph (465, 640), float32 in 0..1."""
    image = read_image(request.config.rootpath / PHOTO)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (640, 465), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@pytest.fixture(scope='module')
def places() -> np.ndarray:
    """Return (x, y) of 150 places well inside the photograph, in a circle around its middle."""
    rng = np.random.default_rng(3)
    angle, radius = rng.uniform(0, 2 * np.pi, 150), rng.uniform(0, 150, 150)
    return np.stack([320 + radius * np.cos(angle), 232 + radius * np.sin(angle)], -1)


def turned(photo: np.ndarray, degrees: float, zoom: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Turn a picture from x towards y around its middle; returns it and the (2, 3) matrix."""
    height, width = photo.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, zoom)
    return cv2.warpAffine(photo, matrix, (width, height), flags=cv2.INTER_CUBIC), matrix


def tensors(image: np.ndarray, points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(image)[None, None], torch.from_numpy(points).float()[None]


def ramp(height: int = 60, width: int = 80) -> torch.Tensor:
    """Return (1, 2, h, w): a channel that holds x and one that holds y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([x, y])[None].float()


def test_the_keypoint_is_the_center_of_its_patch_of_this_side_and_borders_go_on_outside() -> None:
    patch = extract_patches(ramp(), torch.tensor([[[0.0, 0.0]]]), 8.0, size=8)[0, 0]
    assert (patch[:, :4, :4] == 0).all() and (patch[0, 0, 4:] > 0).all()
    point = torch.tensor([[[40.25, 30.5]]])
    patch = extract_patches(ramp(), point, 16.0, size=8)[0, 0]
    expected = (torch.arange(8) - 3.5) * 2
    torch.testing.assert_close(patch[0], (40.25 + expected).expand(8, 8))
    torch.testing.assert_close(patch[1], (30.5 + expected)[:, None].expand(8, 8))


def test_the_x_axis_of_a_patch_points_along_the_orientation() -> None:
    point, angle = torch.tensor([[[40.0, 30.0]]]), torch.tensor([[math.pi / 2]])
    patch = extract_patches(ramp(), point, 8.0, angle, size=8)[0, 0]
    steps = torch.arange(8) - 3.5
    torch.testing.assert_close(patch[1], (30 + steps).expand(8, 8))  # along x of the patch: y
    torch.testing.assert_close(patch[0], (40 - steps)[:, None].expand(8, 8))


def test_patches_of_one_image_do_not_depend_on_the_others_nor_on_their_number() -> None:
    images = torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    points = torch.rand(2, 700, 2, generator=torch.Generator().manual_seed(1)) * 40
    angles = points[..., 0]
    together = extract_patches(images, points, 12.0, angles, 8)
    assert together.shape == (2, 700, 1, 8, 8)
    one = extract_patches(images[1:], points[1:, 600:], 12.0, angles[1:, 600:], 8)
    torch.testing.assert_close(together[1:, 600:], one)
    assert extract_patches(images, points[:, :0], 12.0).shape == (2, 0, 1, 32, 32)


def test_fine_stripes_vanish_in_coarse_patches_instead_of_making_new_ones() -> None:
    stripes = (torch.arange(200) % 2).float().expand(1, 1, 200, 200)
    patch = extract_patches(stripes, torch.tensor([[[100.3, 100.3]]]), 128.0)
    assert (patch - 0.5).abs().max() < 0.02


def test_a_turned_and_zoomed_picture_gives_the_same_patches(photo, places) -> None:
    view, matrix = turned(photo, 37, 1.2)
    moved = cv2.transform(places[None, :40], matrix)[0]
    angle = torch.full((1, 40), math.radians(37))
    here = extract_patches(*tensors(photo, places[:40]), 40.0).flatten(2)
    there = extract_patches(*tensors(view, moved), 48.0, angle).flatten(2)
    similar = [float(torch.corrcoef(pair)[0, 1]) for pair in torch.stack([here[0], there[0]], 1)]
    assert np.median(similar) > 0.98 and min(similar) > 0.9


@pytest.mark.parametrize('degrees', [-170, -90, -33, 0, 12, 90, 135, 180])
def test_the_orientation_of_an_edge_is_the_direction_in_which_it_gets_brighter(degrees) -> None:
    angle = math.radians(degrees)
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing='ij')
    edge = torch.sigmoid((x * math.cos(angle) + y * math.sin(angle)) / 2)
    found = float(dominant_orientations(edge[None])[0])
    assert -math.pi <= found <= math.pi
    difference = math.remainder(found - angle, 2 * math.pi)
    assert abs(math.degrees(difference)) < 1
    flat = torch.full((2, 32, 32), 0.7)  # without gradient
    assert dominant_orientations(flat).tolist() == [0, 0]


@pytest.mark.parametrize('degrees', [8, 45, 90, 160])
def test_orientations_turn_with_the_picture(photo, places, degrees) -> None:
    view, matrix = turned(photo, degrees)
    moved = cv2.transform(places[None], matrix)[0]
    here, there = (
        dominant_orientations(extract_patches(*tensors(*pair), 44.0)[0, :, 0])
        for pair in ((photo, places), (view, moved))
    )
    difference = torch.rad2deg(there - here - math.radians(degrees))
    error = ((difference + 180) % 360 - 180).abs()
    assert error.median() < 1.5
    assert (error < 3).float().mean() > 0.7  # the others have two peaks of about the same height


def correct(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the share of descriptors (N, D) whose nearest neighbor has their own number."""
    return float(((one @ other.T).argmax(1) == torch.arange(len(one))).float().mean())


def test_sift_recognizes_the_places_of_a_turned_picture_only_with_orientations(
    photo, places
) -> None:
    view, matrix = turned(photo, 90)
    moved = cv2.transform(places[None], matrix)[0]
    upright, oriented = [], []
    for image, points in (tensors(photo, places), tensors(view, moved)):
        angles = dominant_orientations(extract_patches(image, points, 44.0)[0, :, 0])[None]
        upright.append(sift_descriptors(image, points, 44.0)[0])
        oriented.append(sift_descriptors(image, points, 44.0, angles)[0])
    assert correct(*upright) < 0.1
    assert correct(*oriented) > 0.75


def test_known_rotation_is_taken_out_of_sift_and_of_hardnet(photo, places) -> None:
    view, matrix = turned(photo, 30, 1.2)
    moved = cv2.transform(places[None], matrix)[0]
    angle = torch.full((1, len(places)), math.radians(30))
    here, there = tensors(photo, places), tensors(view, moved)
    assert (
        correct(sift_descriptors(*here, 44.0)[0], sift_descriptors(*there, 52.8, angle)[0]) > 0.9
    )
    torch.manual_seed(0)
    hardnet = build_extractor('keynet').eval().hardnet
    with torch.no_grad():
        ours = hardnet.describe(extract_patches(*here, 44.0)[0])
        theirs = hardnet.describe(extract_patches(*there, 52.8, angle)[0])
    assert correct(ours, theirs) > 0.8  # random weights keep what patches look like


def test_every_keypoint_gets_a_unit_descriptor_of_sift_wherever_it_is(photo) -> None:
    image, _ = tensors(photo, np.zeros((1, 2)))
    points = torch.tensor([[[0.0, 0.0], [639.0, 464.0], [0.0, 464.0], [300.0, 200.0]]])
    described = sift_descriptors(torch.cat([image, image * 0]), points.expand(2, -1, -1), 44.0)
    torch.testing.assert_close(described.norm(dim=-1), torch.ones(2, 4))
    assert (described[1] == described[1, 0, 0]).all()
    one = sift_descriptors(image, points[:, 3:], 44.0)
    torch.testing.assert_close(one[0, 0], described[0, 3])
