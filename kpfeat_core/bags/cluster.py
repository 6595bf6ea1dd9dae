"""The parts of a batch's recordings on Ray: one task for each, on one machine or many."""

from collections.abc import Iterable, Iterator, Mapping
import os
import socket
from typing import Any, TYPE_CHECKING

from ..errors import ConfigError, DataError
from ..runtime import keep_memory, share_cores

if TYPE_CHECKING:
    from .batch import Batch, Result, Task
    from .reader import BagReader
    from .recording import BagFile, Recording

# A worker comes here first, before anything loads torch.
share_cores()
keep_memory()
CPU = 'cpu'
DEATHS = 3  # workers that may die with a part before it counts as failed
AHEAD = 2  # tasks that wait for each one that runs
LEAST_TASKS = 16  # that are given to Ray at a time, so that clusters which grow see a demand
STORE_BYTES = 100 * 2**20  # of the object store of a Ray of our own: only small things go there
BROKEN_GPU = 'CUDA error'  # after which a process can do nothing more on its GPU
PATIENCE_S = 10.0  # until a task that was cancelled is killed, or an address does not answer


class OnRay:
    """
    Works off tasks on Ray.

    A task whose worker dies is done again, up to three times, and goes on from its partial output.

    address: of a Ray that runs already; '' is $RAY_ADDRESS, or a Ray of our own on this machine,
    which nobody else reaches and which ends with this. Where this process uses one already, that
    is taken. slots: cores of a Ray of our own; -1: all.
    """

    def __init__(self, address: str = '', slots: int = -1) -> None:
        self._address, self._slots = address, slots
        self.machines: list[Mapping[str, float]] = []  # what each one has of CPU and GPU

    def __enter__(self) -> 'OnRay':
        address = self._address or os.environ.get('RAY_ADDRESS', '')
        self._own = address in ('', 'local')
        self._ray = _ray(self._own)
        self._began = not self._ray.is_initialized()
        if self._began:
            self._begin(address)
        self.machines = [node['Resources'] for node in self._ray.nodes() if node['Alive']]
        return self

    def _begin(self, address: str) -> None:
        _check_answer(address)
        options: dict[str, Any] = {'address': address}
        if self._own:
            slots = None if self._slots < 0 else self._slots
            options = {
                'address': 'local',
                'num_cpus': slots,
                'object_store_memory': STORE_BYTES,
                'include_dashboard': False,
            }
        try:
            self._ray.init(**options, log_to_driver=False, logging_level='ERROR')
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(f"there is no Ray at '{address}': {error}") from error
        # else it prints about workers that die where results go; `init` has no option for that
        self._ray._private.worker._worker_logs_enabled = False

    def __exit__(self, *error: Any) -> None:
        if self._began:
            self._ray.shutdown()
            self._ray._private.worker._worker_logs_enabled = True

    def device(self, name: str) -> str:
        if name == 'auto':
            return 'cuda' if any(one.get('GPU') for one in self.machines) else CPU
        if name not in (CPU, 'cuda'):
            raise ConfigError(f"device is '{name}', expected cpu, cuda or auto: Ray chooses which")
        return name

    def results(self, batch: 'Batch', tasks: Iterable['Task']) -> Iterator['Result']:
        resources = self._resources(batch)
        survey = self._ray.remote(_survey).options(num_cpus=1, max_retries=DEATHS)
        remote_work = self._ray.remote(_work).options(**resources, max_retries=DEATHS)
        sent = self._ray.put(batch)
        running: dict[Any, BagFile] = {}
        group, whole = None, None
        waiting = iter(tasks)
        try:
            while True:
                while len(running) < self._limit(resources) and (task := next(waiting, None)):
                    if task.file.group != group:
                        group, whole = task.file.group, survey.remote(task.file.recording)
                    running[remote_work.remote(sent, task, whole)] = task.file
                if not running:
                    return
                done, _ = self._ray.wait(list(running))
                yield from (self._result(batch, one, running.pop(one)) for one in done)
        finally:
            self._cancel(list(running))

    def _resources(self, batch: 'Batch') -> dict[str, float]:
        """Return what a task takes; raises ConfigError where our own Ray never has it."""
        cpus, gpus = batch.cpus, float(batch.request.device != CPU)
        if self._own and not any(
            one.get('CPU', 0) >= cpus and one.get('GPU', 0) >= gpus for one in self.machines
        ):
            there = self.machines[0]
            raise ConfigError(
                f'a task takes {cpus:g} CPUs and {gpus:g} GPUs, but there are '
                f'{there.get("CPU", 0):g} and {there.get("GPU", 0):g}; see --cpus-per-task '
                'and --device'
            )
        return {'num_cpus': cpus, 'num_gpus': gpus}

    def _limit(self, resources: Mapping[str, float]) -> int:
        """Return how many tasks may be under way, as the cluster is now."""
        there = self._ray.cluster_resources()
        slots = [
            there.get(kind, 0) / resources[name]
            for kind, name in (('CPU', 'num_cpus'), ('GPU', 'num_gpus'))
            if resources[name]
        ]
        return max(LEAST_TASKS, int((1 + AHEAD) * min(slots, default=0)))

    def _result(self, batch: 'Batch', done: Any, file: 'BagFile') -> 'Result':
        from .batch import failure

        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:  # the function could not even begin
            return failure(batch, file, str(error).strip().splitlines()[-1])
        except self._ray.exceptions.RayError as error:
            how = f'{DEATHS + 1} times, perhaps for lack of memory ({type(error).__name__})'
            return failure(batch, file, f'its worker died {how}')

    def _cancel(self, running: list[Any]) -> None:
        """Stop tasks, which keep what they did in their partial outputs."""
        for force in (False, True):
            for one in running:
                self._ray.cancel(one, force=force)
            if running:
                _, running = self._ray.wait(running, num_returns=len(running), timeout=PATIENCE_S)


def _check_answer(address: str) -> None:
    """Raise DataError where nobody answers at HOST:PORT, for which Ray would wait minutes."""
    host, _, port = address.rpartition('//')[2].rpartition(':')
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip('[]'), int(port)), PATIENCE_S).close()
    except OSError as error:
        raise DataError(
            f"there is no Ray at '{address}': {error}; `ray status` on its head node tells more"
        ) from error


def _ray(own: bool) -> Any:
    """Import Ray; one of our own keeps to itself."""
    if own:
        os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
        # the name tells of other systems, but this is what makes it listen on 127.0.0.1 alone
        os.environ.setdefault('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')
    try:
        import ray
    except ImportError:
        raise DataError(
            "--cluster needs Ray, which is not installed; pip install 'kpfeat[cluster]'"
        ) from None
    return ray


def _survey(recording: 'Recording') -> 'BagReader | str':
    from .batch import survey

    return survey(recording)


def _work(batch: 'Batch', task: 'Task', whole: 'BagReader | str') -> 'Result':
    from .batch import work

    result = work(batch, task, whole)
    if BROKEN_GPU in result.entry.error:
        os._exit(1)  # all else would fail here too: another process is to try
    return result
