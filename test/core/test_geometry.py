"""Homographies, warps and sampling agree on one pixel convention."""

from kpfeat_core.geometry import inside, pixel_grid, sample, unwarp_points, warp_image, warp_points
import torch


def blob(height: int, width: int, x: float, y: float, sigma: float = 2.0) -> torch.Tensor:
    """Render a Gaussian blob centred at (x, y); (1, 1, H, W)."""
    grid = pixel_grid(height, width)
    squared = (grid - torch.tensor([x, y])).square().sum(-1)
    return (-squared / (2 * sigma**2)).exp().view(1, 1, height, width)


def centroid(image: torch.Tensor) -> torch.Tensor:
    grid = pixel_grid(*image.shape[-2:])
    weights = image.flatten()
    return (weights[:, None] * grid).sum(0) / weights.sum()


HOMOGRAPHY = torch.tensor([[[0.9, -0.3, 30.0], [0.2, 1.1, -4.0], [6e-4, -3e-4, 1.0]]])


def test_points_are_xy_a_translation_moves_them_and_sampling_reads_their_pixel() -> None:
    H = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]]])
    assert warp_points(torch.tensor([[[10.0, 20.0]]]), H).tolist() == [[[13.0, 18.0]]]
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    read = sample(maps, torch.tensor([[[3.0, 2.0], [0.0, 1.0]]]))
    torch.testing.assert_close(read[0, :, 0], torch.tensor([11.0, 4.0]))


def test_points_at_and_behind_infinity_become_nan_and_do_not_spoil_other_gradients() -> None:
    H = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.1, 0.0, 1.0]]])
    points = torch.tensor([[[5.0, 1.0], [10.0, 1.0], [20.0, 1.0]]], requires_grad=True)
    warped = warp_points(points, H)
    assert torch.isfinite(warped[0, 0]).all() and torch.isnan(warped[0, 1:]).all()
    torch.where(warped.isfinite(), warped, 0).sum().backward()
    assert points.grad[0, 0].abs().min() > 0 and (points.grad[0, 1:] == 0).all()


def test_points_come_back_also_where_the_other_corner_is_behind_the_horizon() -> None:
    # the pixels of image 1 with x < 10 show nothing of image 0: its corner is among them
    H = torch.tensor([[[1.0, 0.0, 20.0], [0.0, 1.0, 0.0], [0.1, 0.0, 1.0]]])
    points = torch.tensor([[[0.5, 1.0], [3.0, -20.0]]])
    there = warp_points(points, H)
    for sign in (1, -1):
        torch.testing.assert_close(unwarp_points(there, sign * H), points)
    assert unwarp_points(torch.tensor([[[0.0, 0.0], [10.0, 5.0]]]), H).isnan().all()


def test_a_warped_blob_lands_where_warp_points_says() -> None:
    image = blob(120, 160, 70.0, 50.0)
    warped = warp_image(image, HOMOGRAPHY, (130, 150))
    expected = warp_points(torch.tensor([[[70.0, 50.0]]]), HOMOGRAPHY)[0, 0]
    assert (centroid(warped) - expected).norm() < 0.05
    # homographies are known up to their sign only
    points = torch.tensor([[[5.0, 1.0], [40.0, 60.0]]])
    torch.testing.assert_close(warp_points(points, HOMOGRAPHY), warp_points(points, -HOMOGRAPHY))


def test_a_warped_image_is_black_beyond_the_horizon() -> None:
    to_photograph = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]])  # horizon at x = 10
    warped = warp_image(torch.ones(1, 1, 500, 500), torch.linalg.inv(to_photograph), (8, 20))
    assert (warped[..., :8] > 0.999).all() and (warped[..., 10:] == 0).all()


def test_inside_includes_border_centres_and_excludes_nan() -> None:
    points = torch.tensor([[0.0, 0.0], [9.0, 4.0], [9.1, 4.0], [-0.1, 0.0], [torch.nan, 1.0]])
    assert inside(points, 5, 10).tolist() == [True, True, False, False, False]
