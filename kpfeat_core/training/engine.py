"""The training loop, from a folder of photographs to a weight file, for every system."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
import json
from pathlib import Path
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track
import torch
from torch import nn, Tensor
from torch.optim.swa_utils import AveragedModel

from . import recipe_class
from .recipe import Options
from .run_folder import (
    append_row,
    BEFORE_DECAY,
    check_options,
    describe_images,
    forget_after,
    kept_validation,
    LAST,
    LOG,
    plot_curves,
    read_last,
    SPEED,
    to_go_on_from,
    VALIDATION,
    validation_picture,
    write_checkpoint,
    write_config,
    write_summary,
)
from .runtime import (
    calling_on_sigterm,
    decay_start,
    learning_rate,
    leave,
    make_fabric,
    moving_average,
    StepWatch,
)
from ..config import old_names
from ..data.view_pairs import BatchSource
from ..errors import ConfigError, KpfeatError
from ..image import write_image
from ..io import unpacked
from ..weights.files import save_weights

SHOWN = 8  # pairs or images of a batch in pairs.jpg


def train(model: str, data: Path | str | None, out: Path | str, **options: Any) -> Path:
    """
    Train a model on the photographs in a folder or a .zip file; returns the weight file.

    data: None where magicpoint learns from drawings. out receives `pairs.jpg` (look at it before
    training for hours), `config.json`, `log.csv`, `speed.csv`, `validation.csv` and `validation/`
    (what it makes of photographs held out), `curves.png`, `summary.md`, `last.pt` (resumes by
    itself when the same command runs again), `before_decay.pt` (to go on with more steps) and the
    weights, `<model>.safetensors`, of the average with the best validation.

    Raises ConfigError, DataError, and KpfeatError where Lightning Fabric is missing.
    """
    recipe = recipe_class(model)
    built = Options.build(recipe, options)
    if built.train.steps == 0 and not built.train.start:
        raise ConfigError('steps is 0, expected at least 1, or weights to validate in start')
    recipe.check(built, recipe.build(model, built), data or '')
    if data and Path(out).resolve().is_relative_to(Path(data).resolve()):
        raise ConfigError(
            f"'{out}' is in '{data}', so that the run would learn from the pictures it writes: "
            'expected a folder outside'
        )
    run = _Run(model, Path(out), built)
    with unpacked(data) if data else nullcontext() as folder:
        sources = recipe.load(folder, built, run.progress)
    with calling_on_sigterm(run.stop):
        run.start(*sources)
    weights = run.finish()
    leave(run.fabric)
    return weights


WITH_PATHS = ('start', 'labels', 'scenes')  # options that name files or folders


class _Run:
    """The state of one training run and its folder."""

    def __init__(self, model: str, out: Path, options: Options) -> None:
        self.model, self.out, self.options = model, out, options
        self.recipe_class = recipe_class(model)
        self.config = options.train
        self.record = {'model': model} | options.flat()
        self.step, self.seconds, self.best = 0, 0.0, -1.0
        self.stopped = False
        if self.config.threads > 0:
            torch.set_num_threads(self.config.threads)
        self.fabric = make_fabric(self.config)
        self.console = Console(quiet=not self.fabric.is_global_zero)
        out.mkdir(parents=True, exist_ok=True)
        self.before: dict[str, Any] = {}
        last = read_last(out, self.fabric.device)
        if last:
            # options that came later had their defaults
            now = old_names(*map(type, vars(options).values()))
            options_before = {now.get(name, name): v for name, v in last['options'].items()}
            self.before = self._defaults() | options_before
            check_options(out, self.before, self.record)
            last = to_go_on_from(out, last, self.config, self.fabric.device)
        torch.manual_seed(self.config.seed)
        extractor = self.recipe_class.build(model, options)
        if self.config.start and not last:
            note = self.recipe_class.begin(extractor, self.config.start)
            self.console.print(note)
        self.average = AveragedModel(
            extractor, avg_fn=moving_average(self.config.ema), use_buffers=True
        ).to(self.fabric.device)
        if self.fabric.world_size > 1 and self.fabric.device.type == 'cuda':
            extractor = nn.SyncBatchNorm.convert_sync_batchnorm(extractor)
        # three times faster on a CPU, and what tensor cores want
        recipe = self.recipe_class(extractor, options.loss).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            recipe.parameters(), self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.recipe, self.optimizer = self.fabric.setup(recipe, optimizer)
        if last:
            self._resume(last)

    def _defaults(self) -> dict[str, Any]:
        return Options.build(self.recipe_class, {}).flat()

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.recipe.load_state_dict(state['recipe'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.average.load_state_dict(state['average'])
        if state.get('scaler'):  # only half precision has one, and older runs did not keep it
            self.fabric.strategy.precision.load_state_dict(state['scaler'])
        self.step, self.seconds = state['step'], state['seconds']
        self.best = kept_validation(self.weight_file).get('score', self.best)
        self.console.print(f'resuming at step {self.step} of {self.config.steps}')

    def checkpoint(self, name: str = LAST) -> None:
        """Write everything needed to go on."""
        if not self.fabric.is_global_zero:
            return
        state = {
            'recipe': self.recipe.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'average': self.average.state_dict(),
            'scaler': self.fabric.strategy.precision.state_dict(),
            'step': self.step,
            'seconds': self.seconds,
            'decayed': self.step > decay_start(self.config),
            'options': self.record,
        }
        write_checkpoint(self.out / name, state)

    def progress(self, items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
        """Show a bar while items are read."""
        return track(items, what, total, console=self.console)

    def start(self, training: BatchSource, validation: BatchSource) -> None:
        """Train until the last step on what the recipe loaded."""
        config = self.config
        left_out = [path for source in (training, validation) for path in source.left_out]
        if left_out:
            self.console.print(
                f'left out {len(left_out)} unreadable or tiny images, the first: {left_out[0]}'
            )
        self._claim_folder(training, validation)
        training = training.to(self.fabric.device)
        generator = torch.Generator().manual_seed(1)  # the same batch in every run
        fixed = validation.sample(config.validation_pairs, generator)
        if self.fabric.is_global_zero:
            seen = torch.Generator(self.fabric.device).manual_seed(1)
            shown = training.sample(min(config.batch_size, SHOWN), seen)
            write_image(self.out / 'pairs.jpg', self.recipe_class.picture(shown))
        self.console.print(
            f'{self.model}: {len(training)} images, {len(validation)} for validation, '
            f'{config.steps} steps of {config.batch_size} on {self.fabric.device}'
        )
        if config.steps == self.step == 0:
            self._validate(fixed)
        self.recipe.train()
        self.watch = StepWatch(self.fabric.device)
        sums: dict[str, float] = {}
        summed = 0  # fewer than log_every where a run resumed in between
        saved = begun = time.monotonic()
        for _ in self._steps():
            if self.step == decay_start(self.config):
                self.checkpoint(BEFORE_DECAY)
            summed += 1
            for name, value in self._train_step(training).items():
                sums[name] = sums.get(name, 0.0) + value.detach()
            now = time.monotonic()
            self.seconds += now - begun
            begun = now
            if self.step % config.log_every == 0:
                means = {name: float(value) / summed for name, value in sums.items()}
                self._write(LOG, means)
                self._write(SPEED, self.watch.report(config.batch_size))
                sums, summed = {}, 0
            due = now - saved > config.checkpoint_seconds or self.step == config.steps
            with self.watch.paused():
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    self._validate(fixed)
                if due or self.stopped:
                    self.checkpoint()
                    saved = now
            if self.stopped:
                raise KpfeatError(
                    f'stopped by a signal at step {self.step}; the same command goes on from there'
                )

    def _claim_folder(self, *sources: BatchSource) -> None:
        """Check that the images are those of before, and clear away what will be written again."""
        names = [name for source in sources for name in source.names]
        self.record['images'] = describe_images(sum(map(len, sources)), names)
        if self.before:  # older runs did not note their images
            check_options(self.out, {'images': self.record['images']} | self.before, self.record)
        if self.fabric.is_global_zero:
            forget_after(self.out, self.step if self.before else -1)
            write_config(self.out, self.record)

    def stop(self) -> None:
        """Save and leave after the step at work."""
        self.stopped = True

    def _steps(self) -> Iterator[int]:
        """Count steps under a progress bar with the time left."""
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            TextColumn('{task.completed}/{task.total}'),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(self.model, total=self.config.steps, completed=self.step)
            while self.step < self.config.steps:
                yield self.step
                progress.update(task, completed=self.step)

    def _train_step(self, training: BatchSource) -> dict[str, Tensor]:
        config = self.config
        with self.watch.step(exact=(self.step + 1) % config.log_every == 0):
            # every draw follows from seed and step: a resumed run sees what an unbroken one would
            seed = config.seed * 10**9 + self.step
            generator = torch.Generator(self.fabric.device).manual_seed(seed)
            torch.manual_seed(seed)  # for layers that drop at random
            batch = training.sample(config.batch_size, generator)
            if self.fabric.world_size > 1:
                batch = batch.part(self.fabric.global_rank, self.fabric.world_size)
            self.watch.data_is_ready()
            return self._optimize(batch, generator)

    def _optimize(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(self.step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.recipe(batch, generator)
        self.fabric.backward(parts['total'])
        norm = self.fabric.clip_gradients(
            self.recipe, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
        )
        self.step += 1
        finite = torch.isfinite(norm)
        if finite or self.config.precision == '16-mixed':  # its scaler skips, and learns from it
            self.optimizer.step()
        if finite:
            self.average.update_parameters(self.recipe.module.extractor)
        return parts | {'gradient': norm, 'skipped': (~finite).float()}

    def _validate(self, batch: Any) -> None:
        if not self.fabric.is_global_zero:
            return
        numbers = self.recipe_class.validate(self.average.module, batch)
        self._write(VALIDATION, numbers)
        text = '  '.join(f'{k} {v:.3f}' for k, v in numbers.items())
        self.console.print(f'step {self.step}  {self.seconds / 60:.0f} min  {text}')
        picture = self.recipe_class.examples(self.average.module, batch)
        write_image(validation_picture(self.out, self.step), picture)
        if numbers['score'] > self.best:
            self.best = numbers['score']
            self._save_weights(numbers)

    def _save_weights(self, numbers: Mapping[str, float]) -> None:
        metadata = {
            'model': self.model,
            'steps': str(self.step),
            'seconds': f'{self.seconds:.0f}',
            'options': json.dumps(
                {  # whose folders are of this machine alone
                    name: Path(value).name if name in WITH_PATHS else value
                    for name, value in self.options.flat().items()
                }
            ),
            'validation': json.dumps(numbers),
        }
        save_weights(self.average.module, self.weight_file, metadata)

    @property
    def weight_file(self) -> Path:
        """Where the best weights go."""
        return self.out / f'{self.model}.safetensors'

    def _write(self, name: str, numbers: Mapping[str, float]) -> None:
        if not self.fabric.is_global_zero:
            return
        append_row(self.out / name, {'step': self.step, 'seconds': self.seconds, **numbers})

    def finish(self) -> Path:
        """Plot the curves and say what the run gave."""
        if not self.fabric.is_global_zero:
            return self.weight_file
        if (self.out / LOG).exists() and (self.out / VALIDATION).exists():
            try:
                plot_curves(self.out, self.out / 'curves.png')
            except ImportError:
                self.console.print('no curves.png: it needs matplotlib')
        defaults, options = self._defaults(), self.options.flat()
        changed = {k: v for k, v in options.items() if v != defaults[k]}
        text = write_summary(self.out, self.weight_file, self.fabric.device, changed)
        self.console.print(f'{text}\nweights: {self.weight_file}')
        return self.weight_file
