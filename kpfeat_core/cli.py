"""The `kpfeat` command."""

from importlib.util import find_spec
import sys
from typing import Annotated, Any
import warnings

import typer
from typer.core import TyperGroup

from .commands import adapt, bag, bench, evaluate, images, train, weights
from .commands.common import examples, prose
from .errors import KpfeatError
from .runtime import keep_memory, share_cores

# click's, which some releases of typer bring along under a name of their own
ClickException = next(c for c in typer.BadParameter.__mro__ if c.__name__ == 'ClickException')
USER_ERROR = 2

share_cores()  # before anything loads torch
keep_memory()
_show_warning = warnings.formatwarning
warnings.formatwarning = lambda text, category, *place: (
    f'warning: {text}\n'  # for users, such as of an option's old name
    if category is FutureWarning
    else _show_warning(text, category, *place)
)


class Group(TyperGroup):
    """Commands whose errors are one `error:` line on stderr and exit code 2, never a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> None:
        """Parse, run, report and leave."""
        kwargs['standalone_mode'] = False
        try:
            code = super().main(*args, **kwargs)
        except ClickException as error:
            code = _usage_error(error)
        except typer.Abort:
            code = 130
        except (KpfeatError, OSError, MemoryError) as error:
            code = _fail(str(error) or type(error).__name__)
        except RuntimeError as error:  # torch reports a full memory this way
            if 'memory' not in str(error):
                raise
            code = _fail(f'out of memory; use smaller images or fewer keypoints ({error})')
        sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str) -> int:
    typer.echo(f'error: {" ".join(text.split())}', err=True)
    return USER_ERROR


def _usage_error(error: Any) -> int:
    context = getattr(error, 'ctx', None)
    if type(error).__name__ == 'NoArgsIsHelpError':
        typer.echo(error.format_message(), err=True)
        return USER_ERROR
    hint = f' See `{context.command_path} --help`.' if context else ''
    text = error.format_message().rstrip()
    return _fail(f'{text}{"" if text[-1:] in ".?!" else "."}{hint}')


app = typer.Typer(
    cls=Group,
    name='kpfeat',
    help='Learned local image features: extract, match, train, evaluate.',
    epilog='Each command shows examples with --help.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode='rich',
    pretty_exceptions_enable=False,
)
for _run, _epilog in (
    (images.extract, images.EXTRACT_EPILOG),
    (images.match, images.MATCH_EPILOG),
    (train.train, train.EPILOG),
    (adapt.adapt, adapt.EPILOG),
    (evaluate.evaluate, evaluate.EPILOG),
    (bench.bench, bench.EPILOG),
):
    app.command(_run.__name__, help=prose(_run), epilog=_epilog)(_run)
app.add_typer(bag.app, name='bag')
app.add_typer(weights.app, name='weights')


@app.command(
    epilog=examples('kpfeat demo', 'kpfeat demo --images drive/', 'kpfeat demo --video drive.mp4'),
    # the flags belong to the demo, which parses them itself
    context_settings={'allow_extra_args': True, 'ignore_unknown_options': True},
)
def demo(context: typer.Context) -> None:
    """
    Run camera, extractor, matcher and overlay nodes over ROS 2, and print rates and accuracy.

    Further arguments go to the demo; `python -m kpfeat_ros.demo --help` lists them.
    """
    if find_spec('rclpy') is None:
        raise KpfeatError(
            'the demo runs ROS 2 nodes, and rclpy cannot be imported here; run `make demo` in the '
            'repository, which installs what it needs, or source a ROS 2 installation first'
        )
    from kpfeat_ros.demo import main as run_demo

    raise typer.Exit(run_demo(context.args) or 0)


def _version(wanted: bool) -> bool:
    if wanted:
        from . import __version__

        typer.echo(f'kpfeat {__version__}')
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option('--version', callback=_version, is_eager=True, help='Show the version.')
    ] = False,
) -> None:
    """Learned local image features: extract, match, train."""


def main() -> None:
    """Run the `kpfeat` command; the entry point."""
    app(prog_name='kpfeat')


if __name__ == '__main__':
    main()
