"""What every script of this folder shares: where the repository is, and who made its numbers."""

from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run from a clone, without installing
    sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / 'test/support'))  # the straightforward ALIKE

from kpfeat_core import provenance as places  # noqa: E402


def provenance() -> dict:
    """Return commit, command, machine and versions, for a line of results."""
    return places.provenance(f'python benchmarks/{Path(sys.argv[0]).name}')
