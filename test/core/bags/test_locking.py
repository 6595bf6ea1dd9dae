"""One run at a time."""

import os

from kpfeat_core.bags import writers as locking
from kpfeat_core.bags.writers import InUseError, lock
import pytest


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    path = tmp_path / 'new/lock'
    with lock(path), pytest.raises(InUseError, match="another run is writing to '.*/new'"):
        lock(path)
    lock(path).close()


@pytest.mark.parametrize('comes_back', [True, False])
def test_a_file_that_was_deleted_before_it_was_locked_is_not_taken(
    tmp_path, monkeypatch, comes_back
):
    path, flock = tmp_path / 'lock', locking.fcntl.flock

    def late(*words):
        monkeypatch.undo()
        path.unlink()  # by the one who held it until now
        if comes_back:
            path.touch()
        flock(*words)

    monkeypatch.setattr(locking.fcntl, 'flock', late)
    with lock(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
        with pytest.raises(InUseError):
            lock(path)
