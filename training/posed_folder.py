"""
Bring rendered and measured scenes (intrinsics.txt, poses.txt, pairs.txt) into kpfeat's layout.

    python training/posed_folder.py SHARED/data/train3d scenes/
    kpfeat train alike-t --data PHOTOGRAPHS --set scenes=scenes/ --set scenes_share=0.2 --out RUN

Writes cameras.json and pairs.txt of every scene with depth, and links to its images and depth.
The unit of the depth is read from the scene's README, `metres*N` or `millimetres`. Scenes without
depth, whose correspondences are sparse, are named and left out.
"""

import json
from pathlib import Path
import re
from typing import Annotated

import typer


def read_rows(path: Path) -> list[list[str]]:
    """Return the words of each line that is no comment."""
    lines = path.read_text(encoding='utf-8').splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith('#')]


def depth_unit(readme: Path) -> float:
    """Return how many metres one count of a scene's depth is."""
    text = readme.read_text(encoding='utf-8')
    counts = re.search(r'metres\s*\*\s*(\d+)', text)
    if counts:
        return 1 / int(counts[1])
    if 'millimetres' in text:
        return 1e-3
    raise SystemExit(f"error: '{readme}' does not say what the depth's unit is")


def read_cameras(folder: Path) -> dict[str, dict]:
    """Return K and world_to_camera of the images that have depth."""
    poses = {name: [float(v) for v in values] for name, *values in read_rows(folder / 'poses.txt')}
    cameras = {}
    for name, _, _, *values in read_rows(folder / 'intrinsics.txt'):
        if not (folder / 'depth' / name).with_suffix('.png').is_file():
            continue
        fx, fy, cx, cy = map(float, values)
        turn, move = poses[name][:9], poses[name][9:]
        rows = [[*turn[3 * i : 3 * i + 3], move[i]] for i in range(3)]
        K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
        cameras[name] = {'K': K, 'world_to_camera': [*rows, [0, 0, 0, 1]]}
    return cameras


def convert(folder: Path, out: Path) -> tuple[int, int]:
    """Write one scene; returns how many images and pairs it has."""
    cameras = read_cameras(folder)
    pairs = [row[:3] for row in read_rows(folder / 'pairs.txt') if {*row[:2]} <= cameras.keys()]
    content = {'pixel_centre': 0, 'depth_unit': depth_unit(folder / 'README.md')}
    out.mkdir(parents=True, exist_ok=True)
    (out / 'cameras.json').write_text(json.dumps(content | {'images': cameras}))
    (out / 'pairs.txt').write_text(''.join(f'{" ".join(row)}\n' for row in pairs))
    for name in ('images', 'depth'):
        link = out / name
        link.unlink(missing_ok=True)
        link.symlink_to((folder / name).resolve())
    return len(cameras), len(pairs)


def main(
    folder: Annotated[Path, typer.Argument(help='Folder of scenes, each in a folder of its own.')],
    out: Annotated[Path, typer.Argument(help='Where the scenes go in the layout of kpfeat.')],
) -> None:
    """Convert all scenes with depth."""
    for scene in sorted(path.parent for path in folder.glob('*/intrinsics.txt')):
        if not (scene / 'depth').is_dir():
            print(f'{scene.name}: left out, it has no depth')
            continue
        images, pairs = convert(scene, out / scene.name)
        print(f'{scene.name}: {images} images, {pairs} pairs')


if __name__ == '__main__':
    typer.run(main)
