"""Configuration dataclasses as ROS parameters: declared, described, bounded, live where safe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, Field, fields, replace
from difflib import get_close_matches
from functools import partial
import sys
from threading import RLock
import traceback
from typing import Any, TypeVar

from kpfeat_core.config import check_config, OLD_NAMES
from kpfeat_core.errors import ConfigError, KpfeatError
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

Config = TypeVar('Config')
LARGEST_INT = 2**31 - 1  # shown by `ros2 param describe` where an option has no upper bound


def describe(
    field: Field, choices: Sequence[str] | None = None, fixed: bool = False
) -> ParameterDescriptor:
    """
    Return the descriptor of an option: its sentence, range or choices, and when it may change.

    fixed: never after the start; else an option that is not live may change before configure.
    """
    record = field.metadata
    choices = choices or record['choices']
    descriptor = ParameterDescriptor(name=field.name, description=record['help'], read_only=fixed)
    if choices:
        descriptor.additional_constraints = f'one of: {", ".join(choices)}'
        descriptor.description += f' ({", ".join(choices)})'
    if not (fixed or record['live']):
        descriptor.description += '; read-only while the node is configured'
    low, high = record['low'], record['high']
    if low is None and high is None:
        return descriptor
    if isinstance(field.default, float):
        low = -sys.float_info.max if low is None else float(low)
        high = sys.float_info.max if high is None else float(high)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    else:
        low = -LARGEST_INT if low is None else int(low)
        high = LARGEST_INT if high is None else int(high)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
    return descriptor


@dataclass
class _Group:
    config: Any
    apply: Callable[[Any], None]


class NodeParameters:
    """
    The parameters of one node, each an option of a configuration dataclass.

    Declared once, and read each time that the node is configured. From then on a change is
    checked as a whole with `check_config` and applied as a whole: if one value is refused, or
    applying fails, everything stays as it was and the caller gets the reason. Before that any
    value of the right type and range is taken: it is read later.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._groups: list[_Group] = []
        self.lock = RLock()  # held while a change is applied: who holds it sees all of it or none
        self._refused: dict[str, ConfigError] = {}  # given at start and not allowed
        node.add_on_set_parameters_callback(self._on_set)
        given = node._parameter_overrides
        for old, now in OLD_NAMES.items():
            if old in given and now not in given:
                given[now] = Parameter(now, value=given.pop(old).value)
                node.get_logger().warning(
                    f"parameter '{old}' is called '{now}' now; the old name will go with a release"
                )

    def declare(
        self,
        cls: type,
        choices: Mapping[str, Sequence[str]] | None = None,
        fixed: bool = False,
    ) -> None:
        """
        Declare every option of a dataclass.

        choices: of options whose choices are known at run time only; fixed: none may change.
        """
        for field in fields(cls):
            if not self._node.has_parameter(field.name):
                self._declare(field, describe(field, (choices or {}).get(field.name), fixed))

    def exchange(self, before: type | None, after: type) -> None:
        """
        Declare the options of another model; values given at start or changed since stay.

        Raises ConfigError where such a value is not allowed there; the default is set then.
        """
        kept = self._said(before) if before else {}
        for field in fields(before) if before else ():
            if self._node.has_parameter(field.name):
                self._node.undeclare_parameter(field.name)
            self._refused.pop(field.name, None)
        self.declare(after)
        for field in fields(after):
            if field.name in kept:
                result = self._node.set_parameters([kept[field.name]])[0]
                if not result.successful:
                    raise ConfigError(f"parameter '{field.name}': {result.reason}")

    def carried(self, before: type, after: type[Config]) -> Config:
        """
        Return what `exchange` would make the values of another model; raises ConfigError.

        Those of the present one that stay, and for what it lacks those given at start.
        """
        values = self._node._parameter_overrides | self._said(before)
        names = values.keys() & {field.name for field in fields(after)}
        config = after(**{name: values[name].value for name in names})
        check_config(config)
        return config

    def _said(self, cls: type) -> dict[str, Parameter]:
        """Return the options of a model that were given at start or are not at their default."""
        given, said = self._node._parameter_overrides.keys() - self._refused.keys(), {}
        for field in fields(cls):
            if self._node.has_parameter(field.name):
                parameter = self._node.get_parameter(field.name)
                if field.name in given or parameter.value != field.default:
                    said[field.name] = parameter
        return said

    def switch(self, before: type, after: type[Config], apply: Callable[[Config], None]) -> Config:
        """
        Exchange the options of another model for those read before, and follow those instead.

        Raises ConfigError, and then nothing has changed.
        """
        self.carried(before, after)
        self._groups = [group for group in self._groups if type(group.config) is not before]
        if after is not before:
            self.exchange(before, after)
        return self.read(after, apply)

    def read(
        self, cls: type[Config], apply: Callable[[Config], None] = lambda config: None
    ) -> Config:
        """
        Return the values of a dataclass that is declared, and follow their changes from now on.

        apply: takes over a changed configuration; an error from it refuses the change.

        Raises ConfigError.
        """
        self.declare(cls)  # what was deleted with `ros2 param delete`
        for field in fields(cls):
            if field.name in self._refused:
                raise self._refused[field.name].with_traceback(None)
        config = cls(**{f.name: self._node.get_parameter(f.name).value for f in fields(cls)})
        check_config(config)
        self._groups.append(_Group(config, apply))
        return config

    def unknown(self) -> list[str]:
        """Return the names given at start that no parameter has, each with the nearest name."""
        names = []
        for name in self._node._parameter_overrides:  # rclpy shows them nowhere else
            if self._node.has_parameter(name) or name.startswith('qos_overrides.'):
                continue
            near = get_close_matches(name, self._node._parameters, n=1)
            names.append(f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else ''))
        return sorted(names)

    def _declare(self, field: Field, descriptor: ParameterDescriptor) -> None:
        declare = partial(self._node.declare_parameter, field.name, field.default, descriptor)
        try:
            declare()
            return
        except InvalidParameterTypeException:
            kind = type(field.default).__name__
            hint = ' (write 1.0, not 1)' if kind == 'float' else ''
            reason = f"parameter '{field.name}' got a value of another type, expected {kind}{hint}"
        except InvalidParameterValueException as error:
            reason = f"parameter '{field.name}': {error}"
        declare(ignore_override=True)  # so that it can be set to another value
        self._refused[field.name] = ConfigError(reason)

    def forget(self) -> None:
        """Stop following changes of what was declared, before it is declared again."""
        self._groups.clear()

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters}
        try:
            self._check_read_only(changes)
            wanted = [_changed(group.config, changes) for group in self._groups]
            for config in wanted:
                check_config(config)
            with self.lock:
                self._apply(wanted)
        except Exception as error:
            reason = str(error)
            if not isinstance(error, KpfeatError):  # ours, not the user's: say where
                reason = f'{type(error).__name__}: {error}; the log says where'
                self._node.get_logger().error(''.join(traceback.format_exception(error)))
            return SetParametersResult(successful=False, reason=reason)
        for name in changes:
            self._refused.pop(name, None)
        return SetParametersResult(successful=True)

    def _check_read_only(self, changes: Mapping[str, Any]) -> None:
        """Raise ConfigError if an option changes that is read at configure only."""
        for group in self._groups:
            for field in fields(group.config):
                name, value = field.name, getattr(group.config, field.name)
                if field.metadata['live'] or changes.get(name, value) == value:
                    continue
                node = self._node.get_fully_qualified_name()
                raise ConfigError(
                    f"'{name}' is read-only while the node is configured: deactivate and clean it "
                    f'up first with `ros2 lifecycle set {node} deactivate` and `... cleanup`'
                )

    def _apply(self, wanted: list[Any]) -> None:
        """Apply all changed groups; where one fails, the ones before go back."""
        done: list[tuple[_Group, Any]] = []
        for group, config in zip(self._groups, wanted, strict=True):
            if config == group.config:
                continue
            try:
                group.apply(config)
            except Exception:
                for earlier, before in reversed(done):
                    earlier.apply(before)
                    earlier.config = before
                raise
            done.append((group, group.config))
            group.config = config


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    own = {field.name: changes[field.name] for field in fields(config) if field.name in changes}
    return replace(config, **own)
