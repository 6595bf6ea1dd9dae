"""A scene whose every pixel is known exactly: planes, boxes and spheres seen by ray casting."""

import json
from pathlib import Path

import cv2
import numpy as np

MISS = np.inf


class Room:
    """
    A floor, a wall, a box and spheres; y points down, z from the first cameras to the wall.

    `cast` follows rays origin + s * direction to the nearest surface.
    """

    def __init__(self, seed: int = 0, sky: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.planes = [((0.0, 1.0, 0.0), 1.2)]  # normal . X = distance
        if not sky:
            self.planes.append(((0.1, 0.0, 1.0), 6.0))
        self.box = np.array([[-1.3, 0.1, 3.2], [-0.3, 1.2, 4.2]]) + rng.uniform(-0.2, 0.2, 3)
        self.spheres = [((0.9, 0.5, 3.6), 0.6), ((0.2, -0.7, 4.4), 0.45)]
        self.colors = rng.uniform(0.05, 1, (4096, 3))
        self.offset = rng.uniform(5, 9, 3)

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return s (N,), infinite where nothing is hit, and the number of the surface (N,)."""
        with np.errstate(divide='ignore', invalid='ignore'):
            hits = [(d - origin @ np.array(n)) / (rays @ np.array(n)) for n, d in self.planes]
            slabs = (self.box[:, None] - origin) / rays
            near, far = slabs.min(0).max(1), slabs.max(0).min(1)
            hits.append(np.where(near <= far, near, MISS))
            for center, radius in self.spheres:
                to, square = origin - np.array(center), (rays**2).sum(1)
                half = rays @ to
                root = half**2 - square * (to @ to - radius**2)
                hits.append(np.where(root >= 0, (-half - np.sqrt(root)) / square, MISS))
        hits = np.stack([np.where(hit > 1e-9, hit, MISS) for hit in hits])
        return hits.min(0), hits.argmin(0)

    def color(self, points: np.ndarray) -> np.ndarray:
        """Return the color of surface points (N, 3): cubes of two sizes."""
        color = np.zeros((len(points), 3))
        for size, share in ((0.43, 0.6), (0.11, 0.4)):
            cell = np.floor((points + self.offset) / size).astype(np.int64)
            cell = (cell * np.array([73856093, 19349663, 83492791])).sum(1)
            color += share * self.colors[cell % len(self.colors)]
        return color


class Camera:
    """A pinhole camera that looks at a point; pixel centers are integers."""

    def __init__(self, position, target, size, focal: float, roll: float = 0.0) -> None:
        self.height, self.width = size
        self.K = np.array(
            [[focal, 0, self.width / 2 - 3], [0, focal * 1.02, self.height / 2 + 2], [0, 0, 1]]
        )
        forward = np.subtract(target, position, dtype=np.float64)
        forward /= np.linalg.norm(forward)
        right = np.cross([np.sin(roll), np.cos(roll), 0], forward)
        right /= np.linalg.norm(right)
        turn = np.stack([right, np.cross(forward, right), forward])
        self.pose = np.eye(4)
        self.pose[:3, :3], self.pose[:3, 3] = turn, -turn @ np.array(position, np.float64)

    def rays(self, pixels: np.ndarray, K: np.ndarray | None = None) -> np.ndarray:
        """Return world directions of pixels (N, 2), of which the depth z is the length s."""
        lifted = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
        return lifted @ np.linalg.inv(self.K if K is None else K).T @ self.pose[:3, :3]

    @property
    def origin(self) -> np.ndarray:
        """Return where the camera stands."""
        return -self.pose[:3, :3].T @ self.pose[:3, 3]

    def project(self, points: np.ndarray, K: np.ndarray | None = None) -> np.ndarray:
        """Return pixels (N, 2) and depth of world points, (N, 3)."""
        local = points @ self.pose[:3, :3].T + self.pose[:3, 3]
        pixels = local @ (self.K if K is None else K).T
        return np.concatenate([pixels[:, :2] / pixels[:, 2:], local[:, 2:]], 1)

    def render(self, room: Room, samples: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (H, W, 3) uint8 and its depth (H, W), 0 where nothing is hit."""
        y, x = np.mgrid[: self.height, : self.width]
        centers = np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)
        total = np.zeros((len(centers), 3))
        steps = (np.arange(samples) + 0.5) / samples - 0.5
        for dx in steps:
            for dy in steps:
                rays = self.rays(centers + [dx, dy])
                s, _ = room.cast(self.origin, rays)
                hit = np.isfinite(s)
                seen = room.color(self.origin + rays * np.where(hit, s, 0)[:, None])
                total += np.where(hit[:, None], seen, 0.9)
        depth, _ = room.cast(self.origin, self.rays(centers))
        shape = self.height, self.width
        image = np.round(255 * total / samples**2).astype(np.uint8).reshape(*shape, 3)
        return image, np.where(np.isfinite(depth), depth, 0).reshape(shape)


def walk(count: int) -> list[Camera]:
    """Return cameras on an arc around the things in the room, of three sizes."""
    sizes = ((240, 320), (300, 260), (200, 300))
    cameras = []
    for i in range(count):
        angle = -0.45 + 0.9 * i / max(count - 1, 1)
        position = (3.4 * np.sin(angle), -0.3 + 0.1 * (i % 3), 3.6 - 3.6 * np.cos(angle))
        focal = 260 + 30 * (i % 4)
        cameras.append(Camera(position, (0, 0.3, 3.8), sizes[i % 3], focal, 0.05 * (i % 5 - 2)))
    return cameras


def write_scene(folder: Path, room: Room, cameras: list[Camera], ending: str = '.npy') -> None:
    """Write a scene folder as docs/depth_pairs.md describes it."""
    images = {}
    for i, camera in enumerate(cameras):
        image, depth = camera.render(room)
        images[f'{i}.png'] = {'K': camera.K.tolist(), 'world_to_camera': camera.pose.tolist()}
        (folder / 'images').mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), image[..., ::-1])
        write_depth(folder / 'depth' / f'{i}{ending}', depth)
    cameras_file = {'pixel_centre': 0, 'images': images}
    (folder / 'cameras.json').write_text(json.dumps(cameras_file))


def write_depth(path: Path, depth: np.ndarray) -> None:
    """Write depth in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, depth.astype(np.float32))
    elif path.suffix == '.npz':
        np.savez(path, depth=depth.astype(np.float32))
    elif path.suffix == '.png':
        cv2.imwrite(str(path), np.round(depth * 1000).astype(np.uint16))
    else:
        import h5py

        with h5py.File(path, 'w') as file:
            file['depth'] = depth.astype(np.float32)
