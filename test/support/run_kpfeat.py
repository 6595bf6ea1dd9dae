"""The command `kpfeat` in the process of a test."""

from inspect import signature

from kpfeat_core.cli import app
from typer.testing import CliRunner

# click 8.2 keeps stderr apart by itself; Ubuntu 24.04 has 8.1
APART = {'mix_stderr': False} if 'mix_stderr' in signature(CliRunner).parameters else {}


def run(*words, **environment):
    """Run `kpfeat` with these words in this process."""
    return CliRunner(**APART).invoke(app, [str(word) for word in words], env=environment)


def import_weights(checkpoint, model, out, *settings):
    """Convert a checkpoint as a user does, with KEY=VALUE settings; return the weight file."""
    chosen = [word for pair in settings for word in ('--set', pair)]
    done = run('weights', 'import', checkpoint, '--model', model, '--out', out, *chosen)
    assert done.exit_code == 0, done.output
    return str(out)


def assert_one_error(result, *texts):
    """Check for exit code 2, one `error:` line that holds the texts, and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and lines[0].startswith('error: ')
    assert all(text in lines[0] for text in texts), lines[0]
    assert 'Traceback' not in result.output
