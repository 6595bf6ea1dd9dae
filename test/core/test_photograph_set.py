"""The script that rebuilds the photographs of training, on packages made here."""

from collections import Counter
import csv
from dataclasses import dataclass
from functools import partial
import importlib.util
import io
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'training/photographs.py'
COLUMNS = (
    'file', 'kind', 'origin', 'version', 'member', 'quarter', 'width', 'height', 'resize',
    'quality', 'dhash', 'weak', 'licence', 'author',
)  # fmt: skip


@dataclass
class Done:
    """How a run of the script ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope='module')
def script():
    """Load the script as Python does that runs it: its folder is on the path."""
    pytest.importorskip('rich')
    pytest.importorskip('PIL')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location('photographs', SCRIPT)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, 'photographs', module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def run(script, capfd):
    """Return a function that runs the script here and says how it ended."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            script.main([str(argument) for argument in arguments])
        return Done(ended.value.code or 0, *capfd.readouterr())

    return run


def scene(seed, height=300, width=400):
    colors = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(colors, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image, ending='.png'):
    return cv2.imencode(ending, image)[1].tobytes()


def write_deb(path, files, compression='xz'):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f'w:{compression}') as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f'./{name}')
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with path.open('wb') as deb:
        deb.write(b'!<arch>\n')
        members = (
            ('debian-binary', b'2.0\n'),
            ('control.tar.xz', b'odd'),
            (f'data.tar.{compression}', data.getvalue()),
        )
        for name, content in members:
            deb.write(f'{name:16}{0:<12}{0:<6}{0:<6}{"100644":8}{len(content):<10}`\n'.encode())
            deb.write(content + b'\n' * (len(content) % 2))


def row(dhash, file, member, image, **values):
    standard = dict.fromkeys(COLUMNS, '') | {
        'file': file, 'kind': 'photo', 'origin': 'debian:small-pictures', 'version': '1:2.0-1',
        'member': member, 'resize': 'lanczos', 'quality': '90', 'licence': 'CC0-1.0',
        'width': image.shape[1], 'height': image.shape[0], 'dhash': dhash(image),
    }  # fmt: skip
    return standard | values


@pytest.fixture
def places(packed, tmp_path):
    """Return a folder of the test's own with a package, a checkout, and their list."""
    shutil.copytree(packed, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope='module')
def packed(script, tmp_path_factory):
    """Write a package with pictures in every wrapping, a checkout, and their list."""
    tmp_path = tmp_path_factory.mktemp('places')
    whole, other, large = scene(0), scene(1), scene(2, 700, 1000)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('art/wall.png', encoded(whole))
    resources = b'qres' + bytes(21)
    debs = tmp_path / 'debs'
    debs.mkdir()
    write_deb(
        debs / 'small-pictures_1%3a2.0-1_all.deb',
        {
            'usr/share/plain.png': encoded(whole),
            'usr/share/large.png': encoded(large),
            'usr/share/art.pk3': archive.getvalue(),
            'usr/share/app.rcc': resources + encoded(other) + b'more',
            'usr/share/unwanted.png': b'not a picture',
        },
    )
    (tmp_path / 'checkouts/street-main/res').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'checkouts/street-main/res/sign.png'), other)
    half = cv2.resize(large, (480, 336), interpolation=cv2.INTER_AREA)
    quarter = cv2.resize(large[350:, :500], (480, 336), interpolation=cv2.INTER_AREA)
    github = {'origin': 'github:someone/street', 'version': 'abc', 'weak': 'yes'}
    entry = partial(row, lambda image: f'{script.dhash(image[..., ::-1]):016x}')
    rows = [
        entry('plain.jpg', 'usr/share/plain.png', whole),
        entry('half.jpg', 'usr/share/large.png', half, quality='90 78'),
        entry('quarter.jpg', 'usr/share/large.png', quarter, quarter='2', resize='area'),
        entry('zipped.jpg', 'usr/share/art.pk3!art/wall.png', whole, origin='', version=''),
        entry('resource.jpg', f'usr/share/app.rcc@{len(resources)}', other),
        entry('sign.jpg', 'res/sign.png', other, **github),
    ]
    with (tmp_path / 'list.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


@pytest.fixture
def build(places, run):
    """Return a function that runs the script on the package."""
    standard = ('--offline', '--list', places / 'list.csv', '--out', places / 'out')
    return lambda *arguments: run(places / 'debs', *standard, *arguments)


def manifest(places):
    return {row['file']: row for row in csv.DictReader((places / 'out/manifest.csv').open())}


def test_pictures_come_out_of_packages_archives_resources_and_checkouts(places, build):
    done = build('--folder', places / 'checkouts')
    assert done.returncode == 0, done.stderr
    rows = manifest(places)
    assert len(rows) == 6 and all(int(row['different_bits']) <= 2 for row in rows.values())
    for name, original in (('plain', scene(0)), ('zipped', scene(0)), ('sign', scene(1))):
        assert cv2.PSNR(cv2.imread(str(places / f'out/{name}.jpg')), original) > 30
    assert (rows['quarter.jpg']['width'], rows['quarter.jpg']['height']) == ('480', '336')
    assert rows['zipped.jpg']['source'].startswith('debian:small-pictures 1:2.0-1 : usr/')
    assert not list((places / 'out').glob('.*'))


def test_pictures_outside_debian_are_named_and_the_code_is_3(places, build):
    done = build()
    assert done.returncode == 3 and '5 pictures, 1 missing' in done.stdout
    words = ' '.join(re.findall(r'[\w./:-]+', done.stderr))
    assert 'not from' in words and 'street' in words
    assert sorted(manifest(places)) == [
        'half.jpg', 'plain.jpg', 'quarter.jpg', 'resource.jpg', 'zipped.jpg',
    ]  # fmt: skip


def test_strict_leaves_out_what_has_no_licence_of_its_own(places, build):
    done = build('--licence-strict')
    assert done.returncode == 0, done.stderr
    assert 'sign.jpg' not in manifest(places)
    assert build('--folder', places / 'checkouts').returncode == 0
    done = build('--licence-strict')
    assert done.returncode == 2 and 'sign.jpg' in done.stderr


def test_a_second_run_keeps_what_is_there(places, build):
    build()
    before = {path: path.stat().st_mtime_ns for path in (places / 'out').glob('*.jpg')}
    shutil.rmtree(places / 'debs')
    (places / 'debs').mkdir()
    done = build('--licence-strict')
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (places / 'out').glob('*.jpg')}


def test_another_version_is_taken_with_a_warning_and_other_pictures_are_counted(places, build):
    old = places / 'debs/small-pictures_1%3a2.0-1_all.deb'
    old.unlink()
    write_deb(
        places / 'debs/small-pictures_3.0-1_all.deb',
        {'usr/share/plain.png': encoded(scene(7)), 'usr/share/app.rcc': b'short'},
        'gz',
    )
    done = build('--licence-strict')
    assert done.returncode == 3
    assert 'in place of version 1:2.0-1' in ' '.join(done.stderr.split())
    assert '1 pictures, 4 missing, 1 differ' in done.stdout
    assert int(manifest(places)['plain.jpg']['different_bits']) > 6


@pytest.mark.parametrize('damage', ['cut off', 'no package'])
def test_a_damaged_package_is_an_error_of_its_pictures(places, build, damage):
    deb = places / 'debs/small-pictures_1%3a2.0-1_all.deb'
    content = deb.read_bytes()
    deb.write_bytes(content[: len(content) // 2] if damage == 'cut off' else b'<html>' * 99)
    done = build('--licence-strict')
    assert done.returncode == 3 and 'Traceback' not in done.stderr
    assert 'missing' in done.stdout


def test_a_package_compressed_as_on_ubuntu_is_read(places, build):
    if shutil.which('dpkg-deb') is None:
        pytest.skip('dpkg-deb is not installed')
    tree = places / 'tree'
    (tree / 'DEBIAN').mkdir(parents=True)
    (tree / 'DEBIAN/control').write_text(
        'Package: small-pictures\nVersion: 1:2.0-1\nArchitecture: all\n'
        'Maintainer: nobody <nobody@localhost>\nDescription: none\n'
    )
    (tree / 'usr/share').mkdir(parents=True)
    (tree / 'usr/share/plain.png').write_bytes(encoded(scene(0)))
    deb = places / 'debs/small-pictures_1%3a2.0-1_all.deb'
    command = ['dpkg-deb', '-Zzstd', '--root-owner-group', '-b', str(tree), str(deb)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip('this dpkg-deb writes no zstd')
    done = build('--licence-strict')
    assert done.returncode == 3 and '1 pictures, 4 missing, 0 differ' in done.stdout, done.stderr


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--only', 'big-pictures'), "no picture is of 'big-pictures'"),
        (('--folder', 'nowhere'), "there is no folder 'nowhere'"),
    ],
)
def test_a_mistake_is_one_sentence(build, arguments, words):
    done = build(*arguments)
    assert done.returncode == 2 and words in done.stderr and 'Traceback' not in done.stderr


def test_the_hash_says_where_a_picture_grows_brighter_to_the_right(script):
    ramp = np.tile(np.arange(0, 270, 30, np.uint8), (8, 1))[..., None].repeat(3, axis=2)
    assert script.dhash(ramp) == 2**64 - 1
    assert script.dhash(ramp[:, ::-1].copy()) == 0
    assert script.dhash(np.concatenate((ramp[:4], ramp[:4, ::-1]))) == 0xFFFFFFFF00000000


def test_the_script_says_how_it_is_used(run):
    done = run('--help')
    assert done.returncode == 0 and '--licence-strict' in done.stdout, done.stderr


def test_the_list_has_the_pictures_that_the_documentation_counts():
    origins, weak, files, above = Counter(), 0, set(), ''
    with (ROOT / 'training/photographs.csv').open(encoding='utf-8') as file:
        for entry in csv.DictReader(file):
            above = entry['origin'] or above
            origins[above.partition(':')[2]] += 1
            weak += bool(entry['weak'])
            files.add(entry['file'])
            assert re.fullmatch(r'[0-9a-f]{16}', entry['dhash'])
            assert max(int(entry['width']), int(entry['height'])) <= 480
    table = re.findall(
        r'^\| (?:github|Debian|PyPI) (\S+)[^|]*\| (\d+) \|',
        (ROOT / 'docs/photographs.md').read_text(encoding='utf-8'),
        re.MULTILINE,
    )
    assert origins == {name: int(number) for name, number in table}
    assert len(files) == origins.total() == 2490 and weak == 90
