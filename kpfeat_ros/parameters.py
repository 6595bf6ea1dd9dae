"""Configuration dataclasses as ROS parameters: declared, described, bounded, live where safe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, Field, fields, replace
import sys
from typing import Any, TypeVar

from kpfeat_core.config import check_config
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


def describe(field: Field, choices: Sequence[str] | None = None) -> ParameterDescriptor:
    """Return the descriptor of an option: its sentence, range or choices, and read-only flag."""
    record = field.metadata
    choices = choices or record['choices']
    descriptor = ParameterDescriptor(
        name=field.name, description=record['help'], read_only=not record['live']
    )
    if choices:
        descriptor.additional_constraints = f'one of: {", ".join(choices)}'
        descriptor.description += f' ({", ".join(choices)})'
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

    A change is checked as a whole with `check_config` and applied as a whole: if one value is
    refused, or applying fails, everything stays as it was and the caller gets the reason.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._groups: list[_Group] = []
        node.add_on_set_parameters_callback(self._on_set)

    def declare(
        self,
        cls: type[Config],
        apply: Callable[[Config], None] = lambda config: None,
        choices: Mapping[str, Sequence[str]] | None = None,
    ) -> Config:
        """
        Declare every option of a dataclass and return it with the values given at start.

        apply: takes over a changed configuration; a KpfeatError from it refuses the change.
        choices: of options whose choices are known at run time only.

        Raises ConfigError.
        """
        values = {}
        for field in fields(cls):
            descriptor = describe(field, (choices or {}).get(field.name))
            values[field.name] = self._declare(field, descriptor)
        config = cls(**values)
        check_config(config)
        self._groups.append(_Group(config, apply))
        return config

    def _declare(self, field: Field, descriptor: ParameterDescriptor) -> Any:
        if self._node.has_parameter(field.name):  # configured a second time
            return self._node.get_parameter(field.name).value
        try:
            return self._node.declare_parameter(field.name, field.default, descriptor).value
        except InvalidParameterTypeException as error:
            kind = type(field.default).__name__
            hint = ' (write 1.0, not 1)' if kind == 'float' else ''
            raise ConfigError(
                f"parameter '{field.name}' got a value of another type, expected {kind}{hint}"
            ) from error
        except InvalidParameterValueException as error:
            raise ConfigError(f"parameter '{field.name}': {error}") from error

    def forget(self) -> None:
        """Stop following changes of what was declared, before it is declared again."""
        self._groups.clear()

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters}
        try:
            wanted = [_changed(group.config, changes) for group in self._groups]
            for config in wanted:
                check_config(config)
            self._apply(wanted)
        except KpfeatError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, wanted: list[Any]) -> None:
        """Apply all changed groups; where one fails, the ones before go back."""
        done: list[tuple[_Group, Any]] = []
        for group, config in zip(self._groups, wanted, strict=True):
            if config == group.config:
                continue
            try:
                group.apply(config)
            except KpfeatError:
                for earlier, before in reversed(done):
                    earlier.apply(before)
                    earlier.config = before
                raise
            done.append((group, group.config))
            group.config = config


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    own = {field.name: changes[field.name] for field in fields(config) if field.name in changes}
    return replace(config, **own)
