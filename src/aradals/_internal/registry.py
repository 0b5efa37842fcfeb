"""Functions and classes that are chosen by name, with settings that are checked before they are used."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from aradals._internal.specs import imported
from aradals.errors import InputError

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Mapping[str, T]):
    """A table of our functions or classes, which also finds those of other people.

    Three spellings name an entry: a key of the table (case and "-" or "_" do not matter), ``path/to/file.py:name`` and
    ``package.module:name``. A callable names itself.

    Args:
        kind: what an entry is, with its article: ``an attack``.
        entries: the table.
        arguments: the positional arguments that an entry is called with. If an entry has some, its settings are its
            keyword-only arguments; otherwise every argument is a setting.
        only_ours: the table holds all entries; the code of other people is not looked for.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, T], arguments: Sequence[str] = (), *, only_ours: bool = False
    ) -> None:
        self.kind, self.arguments, self.only_ours = kind, tuple(arguments), only_ours
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def bind(self, target: str | T, settings: Mapping[str, Any]) -> T:
        """The entry with some of its settings.

        Raises:
            InputError: no such entry, or a setting that the entry does not have; for other people's code also any
                error of the import.
        """
        with self.found(target) as entry:
            check_settings(target if isinstance(target, str) else entry_name(entry), settings, *self.settings_of(entry))
        return cast(T, functools.partial(entry, **settings)) if settings else entry

    @contextmanager
    def found(self, target: str | T) -> Iterator[T]:
        """Find the entry, and run the block that uses it where its imports work.

        Raises:
            InputError: see `bind`.
        """
        if not isinstance(target, str):
            yield target
        elif ":" in target and not self.only_ours:
            with imported(target, f"name {self.kind}") as entry:
                yield self._checked(target, entry)
        else:
            yield self._find(target)

    def settings_of(self, entry: T) -> tuple[dict[str, Any], bool]:
        """The settings of an entry with their defaults, and whether it takes any other name."""
        try:
            parameters = inspect.signature(entry).parameters.values()
        except (TypeError, ValueError):  # some callables written in C
            return {}, True
        kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)[: 1 if self.arguments else 2]
        settings = {each.name: each.default for each in parameters if each.kind in kinds}
        return settings, any(each.kind is each.VAR_KEYWORD for each in parameters)

    def _find(self, name: str) -> T:
        normal = name.lower().replace("-", "_")
        try:
            return self[normal]
        except KeyError:
            nearest = difflib.get_close_matches(normal, self, n=1, cutoff=0.0)[0]
            others = () if self.only_ours else ("path/to/file.py:name", "package.module:name")
            raise InputError(
                expected=f"{self.kind}: {', '.join([*self, *others])}",
                got=repr(name),
                hint=f"{name}:name" if others and name.endswith(".py") else nearest,
            ) from None

    def _checked(self, spec: str, entry: object) -> T:
        if not callable(entry):
            raise InputError(
                expected=f"{spec} to be {self.kind}",
                got=f"an object of type {type(entry).__name__}",
                hint="a function or a class",
            )
        try:
            if self.arguments:
                inspect.signature(entry).bind(*self.arguments)
        except TypeError as error:
            raise InputError(
                expected=f"{spec} to take ({', '.join(self.arguments)}), and everything else by default",
                got=f"({', '.join(inspect.signature(entry).parameters)})",
                hint="settings as keyword-only arguments with defaults",
            ) from error
        return cast(T, entry)


def check_settings(name: str, given: Mapping[str, Any], known: Mapping[str, Any], takes_any: bool) -> None:
    """Raise InputError for a setting that ``name`` does not have."""
    unknown = [setting for setting in given if setting not in known]
    if unknown and not takes_any:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        raise InputError(
            expected=f"the settings of {name}: {', '.join(known) or 'none'}",
            got=", ".join(unknown),
            hint=nearest[0] if nearest else "leaving it out",
        )


def entry_name(entry: Callable[..., Any]) -> str:
    """The name of a function or class, whatever settings are bound."""
    while isinstance(entry, functools.partial):
        entry = entry.func
    return getattr(entry, "__name__", type(entry).__name__)
