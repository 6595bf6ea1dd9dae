"""Choosing a Python, doing things once, and errors in one sentence."""

from collections.abc import Iterator
import importlib
import os
from pathlib import Path
import subprocess
import sys
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / 'scripts'))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / 'scripts'))


@pytest.fixture
def bootstrap() -> Iterator[ModuleType]:
    yield from script('bootstrap')


@pytest.fixture
def machine() -> Iterator[ModuleType]:
    yield from script('machine')


@pytest.fixture
def progress() -> Iterator[ModuleType]:
    yield from script('progress')


def test_a_python_that_lacks_nothing_is_taken_before_one_that_lacks_headers(machine) -> None:
    bare = machine.Python((3, 12), True, False, '/usr/bin/python3.12')
    whole = machine.Python((3, 11), True, True, '/usr/bin/python3.11')
    assert machine.choose_python([bare, whole]) is whole
    assert machine.choose_python([bare]) is bare


def test_among_equals_the_first_python_is_taken(machine) -> None:
    first, second = (machine.Python((3, minor), True, True, 'p') for minor in (13, 10))
    assert machine.choose_python([first, second]) is first


@pytest.mark.parametrize('versions', [[], [(3, 9)], [(3, 9), (3, 14)]])
def test_without_a_fitting_python_the_error_names_what_was_found(machine, progress, versions):
    found = [machine.Python(version, True, True, 'p') for version in versions]
    with pytest.raises(progress.StepError) as error:
        machine.choose_python(found)
    assert '3.10, 3.11, 3.12 or 3.13 is needed' in str(error.value)
    for major, minor in versions:
        assert f'{major}.{minor}' in str(error.value)
    assert versions or 'none' in str(error.value)


def test_a_python_knows_the_system_packages_it_lacks(machine) -> None:
    bare = machine.Python((3, 11), False, False, '/usr/bin/python3.11')
    assert bare.missing_packages == ['python3.11-venv', 'python3.11-dev']
    assert machine.Python((3, 11), True, True, 'p').missing_packages == []


def test_the_running_python_is_probed_rightly(machine) -> None:
    python = machine.probe(sys.executable)
    assert python.version == sys.version_info[:2]
    assert python.path == os.path.realpath(sys.executable)


def test_programs_that_are_no_python_are_passed_over(machine) -> None:
    assert machine.probe('/no/such/python') is None
    assert machine.probe('false') is None
    assert machine.probe('echo') is None


@pytest.mark.parametrize('system, cpu', [('Linux', 'aarch64'), ('Darwin', 'x86_64')])
def test_other_machines_are_refused_with_what_to_do(machine, progress, system, cpu) -> None:
    machine.check_machine('Linux', 'x86_64')
    with pytest.raises(progress.StepError, match=f'{system} on {cpu}.*colcon'):
        machine.check_machine(system, cpu)


def test_apt_is_called_as_root_or_through_sudo_or_the_command_is_told(machine, progress) -> None:
    assert machine.apt_prefix(True, 0, False, ['cmake']) == []
    assert machine.apt_prefix(True, 1000, True, ['cmake']) == ['sudo']
    with pytest.raises(progress.StepError, match='run as root: apt-get install cmake g\\+\\+'):
        machine.apt_prefix(True, 1000, False, ['cmake', 'g++'])
    with pytest.raises(progress.StepError, match='missing: cmake; .* no apt-get'):
        machine.apt_prefix(False, 0, True, ['cmake'])


def test_a_stamp_counts_only_for_the_same_inputs(bootstrap, tmp_path) -> None:
    file, stamp = tmp_path / 'list.txt', tmp_path / 'stamp'
    file.write_text('numpy')
    key = bootstrap.digest([file])
    assert not bootstrap.is_current(stamp, key)
    stamp.write_text(key)
    assert bootstrap.is_current(stamp, bootstrap.digest([file]))
    file.write_text('numpy<2')
    assert not bootstrap.is_current(stamp, bootstrap.digest([file]))


def test_an_unfinished_or_moved_environment_is_not_whole(bootstrap, tmp_path) -> None:
    place = bootstrap.Place('jazzy', tmp_path / 'here')
    place.venv.joinpath('bin').mkdir(parents=True)
    place.python.symlink_to(sys.executable)
    pip = place.venv / 'bin' / 'pip'
    pip.write_text(f'#!{place.python}')
    assert not bootstrap.is_whole(place), 'no stamp: pip was interrupted'
    place.stamp.touch()
    assert bootstrap.is_whole(place)
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert not bootstrap.is_whole(bootstrap.Place('jazzy', tmp_path / 'there'))


def test_the_build_depends_on_messages_and_on_names_of_python_files(bootstrap, tmp_path) -> None:
    def key() -> str:
        return bootstrap.digest(*bootstrap.build_inputs(tmp_path))

    for name in ('CMakeLists.txt', 'package.xml', 'msg/A.msg', 'kpfeat_core/a.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('one')
    before = key()
    (tmp_path / 'kpfeat_core/a.py').write_text('two')
    assert key() == before, 'Python files are linked: no build for a changed line'
    (tmp_path / 'kpfeat_core/__pycache__').mkdir()
    (tmp_path / 'kpfeat_core/__pycache__/a.pyc').touch()
    assert key() == before
    (tmp_path / 'kpfeat_core/b.py').touch()
    linked = key()
    assert linked != before
    (tmp_path / 'msg/A.msg').write_text('two')
    assert key() != linked


def test_header_folders_of_the_wheels_are_mended_once(bootstrap, tmp_path) -> None:
    file = tmp_path / 'share' / 'std_msgs' / 'cmake' / 'export.cmake'
    file.parent.mkdir(parents=True)
    there = '/opt/python/cp311-cp311'
    file.write_text(
        f'INCLUDE "{there}/include/python3.11;'
        f'{there}/lib/python3.11/site-packages/numpy/_core/include;${{PREFIX}}/include"'
    )
    assert bootstrap.mend_paths(tmp_path, '/py', '/np') == 1
    assert file.read_text() == 'INCLUDE "/py;/np;${PREFIX}/include"'
    assert bootstrap.mend_paths(tmp_path, '/py', '/np') == 0


def test_another_ros_installation_stays_out_of_the_environment(bootstrap, tmp_path) -> None:
    before = {
        'AMENT_PREFIX_PATH': '/opt/ros/humble',
        'HOME': '/home/user',
        'PATH': '/usr/bin',
        'PYTHONPATH': '/opt/ros/humble/lib/python3.10/site-packages',
        'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp',
        'ROS_DOMAIN_ID': '7',
    }
    after = bootstrap.environment_variables(bootstrap.Place('kilted', tmp_path), before)
    assert '/opt/ros' not in ' '.join(after.values())
    assert 'RMW_IMPLEMENTATION' not in after
    assert after['ROS_DOMAIN_ID'] == '7'
    assert after['HOME'] == '/home/user'
    assert after['PATH'] == f'{tmp_path}/.venv-kilted/bin:/usr/bin'
    assert after['AMENT_PREFIX_PATH'].startswith(f'{tmp_path}/install-kilted/kpfeat:')


def test_interfaces_for_tests_are_seen_by_tests_only(bootstrap, tmp_path) -> None:
    place = bootstrap.Place('kilted', tmp_path)
    package = tmp_path / 'build-kilted/test_interfaces/install/composition_interfaces'
    modules = package / 'lib/python3.11/site-packages'
    modules.mkdir(parents=True)
    variables = bootstrap.environment_variables(place, {}, tests=True)
    found = {
        name: str(folder) in variables[name].split(':')
        for name, folder in (
            ('AMENT_PREFIX_PATH', package),
            ('LD_LIBRARY_PATH', package / 'lib'),
            ('PYTHONPATH', modules),
        )
    }
    assert all(found.values()), found
    assert 'composition' not in str(bootstrap.environment_variables(place, {}))


def test_interfaces_for_tests_are_not_compiled_where_ros_has_its_own(
    bootstrap, tmp_path, monkeypatch
) -> None:
    place = bootstrap.Place('jazzy', tmp_path)
    (tmp_path / 'requirements').mkdir()
    for file in place.ros_requirements:
        file.write_text('')
    (tmp_path / 'test/ros/composition_interfaces').mkdir(parents=True)
    (tmp_path / 'build').mkdir()
    compiled = []
    monkeypatch.setattr(
        bootstrap, 'compile_package', lambda *given: compiled.append(given[2].name)
    )
    bootstrap.build_test_interfaces(place)
    bootstrap.build_test_interfaces(place)
    assert compiled == ['composition_interfaces']  # once
    (place.venv / 'share/composition_interfaces').mkdir(parents=True)
    (place.test_interfaces / 'composition_interfaces.stamp').unlink()
    bootstrap.build_test_interfaces(place)
    assert compiled == ['composition_interfaces']


@pytest.mark.parametrize(
    'output, sentence',
    [
        ('E: Unable to locate package cmake', "apt-get knows no package 'cmake'"),
        ('ERROR: No matching distribution found for torch==9', "there is no package 'torch==9'"),
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('Temporary failure resolving "host"', 'the network cannot be reached'),
        ('something nobody has seen', ''),
    ],
)
def test_the_reason_of_a_failure_is_read_from_its_output(progress, output, sentence) -> None:
    assert progress.explain(f'first\n{output}\nlast').startswith(sentence)
    assert bool(progress.explain(output)) == bool(sentence)


def test_a_failed_step_says_what_failed_why_and_where_to_read_on(progress, tmp_path) -> None:
    log = tmp_path / 'log'
    command = ['sh', '-c', 'echo No space left on device; exit 3']
    with pytest.raises(progress.StepError) as error:
        progress.run_logged('installing it', command, log)
    assert str(error.value) == (
        f'installing it failed: the disk is full; all of its output is in {log}'
    )


def test_a_step_that_works_is_two_short_lines(progress, tmp_path, capsys) -> None:
    log = tmp_path / 'log'
    progress.run_logged('installing it', ['sh', '-c', 'echo much; echo >&2 more'], log)
    assert log.read_text() == 'much\nmore\n'
    assert capsys.readouterr().out == 'kpfeat: installing it ...\nkpfeat:     done in 0 s\n'


def test_run_needs_a_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / 'scripts' / 'bootstrap.py', 'run', 'jazzy'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert 'run needs a command' in done.stderr


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(
        ['make', '--no-print-directory', 'help'], cwd=ROOT, capture_output=True, text=True
    )
    phony = next(x for x in (ROOT / 'Makefile').read_text().split('\n') if '.PHONY' in x)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert listed == set(phony.split(':')[1].split())


def test_both_distributions_ask_for_the_same_run_time() -> None:
    names = {
        distribution: {
            line.replace(distribution, '*')
            for line in (ROOT / f'requirements/ros-run-{distribution}.txt').read_text().split('\n')
            if line and not line.startswith('#')
        }
        for distribution in ('jazzy', 'kilted')
    }
    assert names['jazzy'] == names['kilted']
