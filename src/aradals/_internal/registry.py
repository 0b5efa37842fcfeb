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
    """Table of the functions or classes of this package, which also finds user code by name.

    An entry has three possible names: a key of the table (case and "-" or "_" do not matter), ``path/to/file.py:name``
    and ``package.module:name``. A callable can be given instead of a name.

    Args:
        kind: the kind of the entries, with an article: ``an attack``.
        entries: the table.
        arguments: the positional arguments of an entry. If there are some, the settings of an entry are its
            keyword-only arguments; otherwise every argument is a setting.
        only_ours: accept only the entries of the table, and no user code.
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
        """Return the entry with some of its settings.

        Raises:
            InputError: there is no such entry, or the entry does not have one of the settings; for user code also any
                error of its import.
        """
        with self.found(target) as entry:
            check_settings(target if isinstance(target, str) else entry_name(entry), settings, *self.settings_of(entry))
        return cast(T, functools.partial(entry, **settings)) if settings else entry

    @contextmanager
    def found(self, target: str | T) -> Iterator[T]:
        """Find the entry, and run the block in a context where the imports of the entry work.

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
        """Return the settings of an entry with their defaults; the bool is True if it takes any other name, too."""
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
                hint="the name of a function or a class",
            )
        try:
            if self.arguments:
                inspect.signature(entry).bind(*self.arguments)
        except TypeError as error:
            raise InputError(
                expected=f"{spec} to take ({', '.join(self.arguments)}), with defaults for all other arguments",
                got=f"({', '.join(inspect.signature(entry).parameters)})",
                hint="making the settings keyword-only arguments with defaults",
            ) from error
        return cast(T, entry)


def check_settings(name: str, given: Mapping[str, Any], known: Mapping[str, Any], takes_any: bool) -> None:
    """Raise InputError for a setting that ``name`` does not have."""
    unknown = [setting for setting in given if setting not in known]
    if unknown and not takes_any:
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        raise InputError(
            expected=f"the settings of {name}: {', '.join(known)}" if known else f"no settings for {name}",
            got=", ".join(unknown),
            hint=nearest[0] if nearest else f"{name} without this setting",
        )


def entry_name(entry: Callable[..., Any]) -> str:
    """Return the name of a function or class, without its bound settings."""
    while isinstance(entry, functools.partial):
        entry = entry.func
    return getattr(entry, "__name__", type(entry).__name__)
