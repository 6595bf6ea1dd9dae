"""Configuration dataclasses as ROS parameters: declared, described, bounded, live where safe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
import sys
from threading import RLock
from typing import Any, TypeVar

from kpfeat_core.config import (
    check_config,
    describe,
    ExtractorConfig,
    MatcherConfig,
    OptionDescription,
    ViewConfig,
)
from kpfeat_core.errors import ConfigError
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from .lifecycle import answer_to, private
from .options import NODE_OPTIONS

Config = TypeVar('Config')
OF_ALL_NODES = {
    field.name
    for cls in (*NODE_OPTIONS, ExtractorConfig, MatcherConfig, ViewConfig)
    for field in fields(cls)
}
LARGEST_INT = 2**31 - 1  # shown by `ros2 param describe` where an option has no upper bound


def descriptor_of(option: OptionDescription, fixed: bool = False) -> ParameterDescriptor:
    """
    Return the descriptor of an option: its sentence, range or choices, and when it may change.

    fixed: never after the start; else an option that is not live may change before configure.
    """
    words = option.help
    descriptor = ParameterDescriptor(name=option.name, read_only=fixed)
    if option.choices:
        descriptor.additional_constraints = f'one of: {", ".join(option.choices)}'
        words += f' ({", ".join(option.choices)})'
    if not (fixed or option.live):
        words += '; read-only while the node is configured'
    descriptor.description = words
    if option.low is None and option.high is None:
        return descriptor
    kind, largest = option.kind, sys.float_info.max if option.kind is float else LARGEST_INT
    low = -largest if option.low is None else kind(option.low)
    high = largest if option.high is None else kind(option.high)
    if kind is float:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    else:
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
        self.lock = RLock()  # held while a change is applied, as a whole
        self._refused: dict[str, ConfigError] = {}  # given at start and not allowed
        node.add_on_set_parameters_callback(self._on_set)
        self._given = private(node, '_parameter_overrides')  # at start, by name

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
        for option in map(describe, fields(cls)):
            if not self._node.has_parameter(option.name):
                known = (choices or {}).get(option.name)
                self._declare(option._replace(choices=known) if known else option, fixed)

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
        Return the values that `exchange` would give another model; raises ConfigError.

        Those of the present model that stay, and those given at start for options it lacks.
        """
        values = self._given | self._said(before)
        names = values.keys() & {field.name for field in fields(after)}
        config = after(**{name: values[name].value for name in names})
        check_config(config)
        return config

    def _said(self, cls: type) -> dict[str, Parameter]:
        """Return the options of a model that were given at start or are not at their default."""
        given, said = self._given.keys() - self._refused.keys(), {}
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
        self.declare(cls)  # parameters deleted with `ros2 param delete`
        for field in fields(cls):
            if field.name in self._refused:
                raise self._refused[field.name].with_traceback(None)
        config = cls(**{f.name: self._node.get_parameter(f.name).value for f in fields(cls)})
        check_config(config)
        self._groups.append(_Group(config, apply))
        return config

    def unknown(self) -> list[str]:
        """
        Return the names given at start that no parameter has, each with the nearest name.

        Those that another node of ours has are left out: files set them for all with /**.
        """
        names, known = [], self._node.get_parameters_by_prefix('')
        for name in self._given:
            if name in known or name in OF_ALL_NODES or name.startswith('qos_overrides.'):
                continue
            near = get_close_matches(name, known, n=1)
            names.append(f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else ''))
        return sorted(names)

    def _declare(self, option: OptionDescription, fixed: bool) -> None:
        old, now = option.old, option.name
        if old in self._given and now not in self._given:
            self._given[now] = Parameter(now, value=self._given.pop(old).value)
            self._node.get_logger().warning(
                f"parameter '{old}' is called '{now}' now; the old name will go with a release"
            )
        descriptor = descriptor_of(option, fixed)
        declare = partial(self._node.declare_parameter, option.name, option.default, descriptor)
        try:
            declare()
            return
        except InvalidParameterTypeException:
            kind = option.kind.__name__
            hint = ' (write 1.0, not 1)' if kind == 'float' else ''
            reason = (
                f"parameter '{option.name}' got a value of another type, expected {kind}{hint}"
            )
        except InvalidParameterValueException as error:
            reason = f"parameter '{option.name}': {error}"
        declare(ignore_override=True)  # so that it can be set to another value
        self._refused[option.name] = ConfigError(reason)

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
            return SetParametersResult(successful=False, reason=answer_to(self._node, error))
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
