"""Debian packages: finding them, fetching them, and reading files out of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
import shutil
import subprocess
import tarfile
import tempfile
from typing import IO
from urllib.parse import unquote

from kpfeat_core.errors import DataError


def find_data(deb: IO[bytes]) -> str:
    """Go to the files of a .deb package, a tar file whose name it returns; raises DataError."""
    if deb.read(8) != b'!<arch>\n':
        raise DataError('is no .deb package')
    while len(header := deb.read(60)) == 60:
        name, size = header[:16].decode().strip().rstrip('/'), int(header[48:58])
        if name.startswith('data.tar'):
            return name
        deb.seek(size + size % 2, 1)
    raise DataError('holds no data.tar: it is cut off, or no package')


@contextmanager
def open_deb(deb: Path) -> Iterator[tarfile.TarFile]:
    """Open the files of a package, to be read once from front to back; raises DataError."""
    with deb.open('rb') as file:
        if not find_data(file).endswith('.zst'):
            with tarfile.open(fileobj=file, mode='r|*') as tar:
                yield tar
            return
    if shutil.which('dpkg-deb') is None:
        raise DataError('is compressed with zstd, as on Ubuntu: install dpkg, which reads it')
    command = ['dpkg-deb', '--fsys-tarfile', str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode='r|') as tar,
    ):
        yield tar


def extract(deb: Path, wanted: set[str], scratch: Path) -> Iterator[tuple[str, Path]]:
    """Give each wanted file of a package with a temporary copy, which the next step deletes."""
    wanted, copy = set(wanted), scratch / 'member'
    try:
        with open_deb(deb) as tar:
            for entry in tar:
                name = entry.name.removeprefix('./')
                if name in wanted and entry.isreg():
                    with copy.open('wb') as target:
                        shutil.copyfileobj(tar.extractfile(entry), target, 1 << 20)
                    yield name, copy
                    wanted.discard(name)
                if not wanted:
                    return
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f'{deb.name} could not be unpacked: {error}') from error
    except DataError as error:
        raise DataError(f'{deb.name} {error}') from error


def find_deb(package: str, version: str, folder: Path) -> Path | None:
    """Find a package of a version ('' is any) in a folder; an epoch may miss in its name."""
    for path in sorted(folder.glob(f'{package}_*.deb')):
        found = unquote(path.name.split('_')[1])
        if version in ('', found) or version.partition(':')[2] == found:
            return path
    return None


def apt_get(words: str, folder: Path) -> Path:
    """Download 'package' or 'package=version' into a folder; raises DataError."""
    if shutil.which('apt-get') is None:
        raise DataError('there is no apt-get here; give a folder with the packages')
    with tempfile.TemporaryDirectory(dir=folder, prefix='.apt-') as place:
        done = subprocess.run(
            ['apt-get', 'download', words], cwd=place, capture_output=True, text=True, check=False
        )
        debs = list(Path(place).glob('*.deb'))
        if done.returncode or not debs:
            lines = [line for line in done.stderr.splitlines() if line.startswith('E:')]
            raise DataError(f'apt-get download {words}: {" ".join(lines) or "gave no package"}')
        return debs[0].replace(folder / debs[0].name)


def get_deb(
    package: str, version: str, folder: Path, offline: bool, warn: Callable[[str], None]
) -> Path:
    """Find or fetch a package; takes another version with a warning. Raises DataError."""
    if deb := find_deb(package, version, folder):
        return deb
    deb = find_deb(package, '', folder)
    if not offline:
        try:
            return apt_get(f'{package}={version}', folder)
        except DataError as error:
            if deb is None and shutil.which('apt-get') is None:
                raise
            warn(str(error))
            deb = deb or apt_get(package, folder)
    if deb is None:
        raise DataError('the package is not in the folder, and --offline fetches none')
    warn(f'{deb.name} in place of version {version}: pictures may be others, or missing')
    return deb
