"""User code by name: ``path/to/file.py:callable`` and ``package.module:callable``."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from aradals._internal.files import file_digest
from aradals.errors import InputError, MissingExtraError


@contextmanager
def imported(spec: str, purpose: str) -> Iterator[object]:
    """Import the object that ``spec`` names, and treat errors in the block like errors in the user's code.

    A file can import the modules in its folder, a module those in the working directory, also within the block.

    Args:
        spec: ``path/to/file.py:name`` or ``package.module:name``; the name may have dots.
        purpose: purpose of the code, as the words after "to": ``build a model``.

    Yields:
        The object.

    Raises:
        InputError: there is no such file or name, or the code raises an error, here or in the block, which is chained.
    """
    source, _, attribute = spec.rpartition(":")
    if source.endswith(".py"):
        path = _find_file(source)
        with _importable_from(path.parent, forget=True), user_code(spec, purpose):
            yield _find_attribute(_import_file(path), attribute)
    else:
        with _importable_from(Path.cwd(), forget=False), user_code(spec, purpose):
            yield _find_attribute(importlib.import_module(source), attribute)


@contextmanager
def user_code(spec: str, purpose: str) -> Iterator[None]:
    """Turn any error in user code into an `InputError` of one line."""
    try:
        yield
    except (InputError, MissingExtraError):
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            expected=f"{spec} to be importable and to {purpose}",
            got=f"its call of {exit_call(error)}" if isinstance(error, SystemExit) else said,
            hint="calling the code in Python, where the traceback shows the line",
        ) from error


def exit_call(error: SystemExit) -> str:
    """Write the call in user code that has raised ``error``."""
    return f"sys.exit({'' if error.code is None else repr(error.code)})"


def code_digest(spec: str) -> str | None:
    """Hash the source code of ``spec``, so that changed code counts as another model, objective or attack.

    The code is the file that ``spec`` names, and all files that it imports, directly or through other files: those in
    its folder or package, and those of other modules that are not installed, or installed in editable mode. Installed
    packages are left out, and so is this one, because their versions are recorded. No code runs, except that the
    packages around ``package.module`` are imported.

    Args:
        spec: as for `imported`, or a built-in name.

    Returns:
        16 hex digits; None for built-in names, and for code whose source cannot be found.
    """
    source, _, _ = spec.rpartition(":")
    if not source:
        return None
    if source.endswith(".py"):
        first = Path(source).expanduser().resolve()
        root = first.parent
    else:
        with _importable_from(Path.cwd(), forget=False):
            origin = _origin(source)
        if origin is None:
            return None
        first, root = origin, _root(origin, source)
    if not first.is_file():
        return None
    with _importable_from(root, forget=False):
        found = sorted((file.relative_to(top).as_posix(), file_digest(file)) for file, top in _reachable(first, root))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in found).encode()).hexdigest()[:16]


def _reachable(first: Path, root: Path) -> set[tuple[Path, Path]]:
    """Find the Python files that ``first`` imports, directly or through other files, each with its root folder."""
    files, waiting = {(first, root)}, [(first, root)]
    while waiting:
        new = set(_imported_files(*waiting.pop())) - files
        files |= new
        waiting += new
    return files


def _imported_files(file: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the packages around ``file``, and the files that its import statements name, each with its root folder."""
    packages = [folder / "__init__.py" for folder in file.parents if folder != root and folder.is_relative_to(root)]
    yield from ((each, root) for each in packages if each.is_file())
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names: list[tuple[Path | None, str]]
        if isinstance(node, ast.Import):
            names = [(None, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else None
            module = node.module or ""
            names = [(base, module), *((base, f"{module}.{alias.name}".strip(".")) for alias in node.names)]
        else:
            continue
        for base, name in names:
            top = root if base or _is_below(root, name) else _other_root(name)
            if top is not None:
                yield from ((each, top) for each in _files_of(name, base or top) if each.is_relative_to(top))


def _files_of(name: str, base: Path) -> Iterator[Path]:
    """Yield the files of a module, and of the packages that its name mentions, which Python imports as well."""
    path = base
    for part in filter(None, name.split(".")):
        path = path / part
        yield from (each for each in (path.with_name(f"{part}.py"), path / "__init__.py") if each.is_file())


def _is_below(root: Path, name: str) -> bool:
    top = root / name.partition(".")[0]
    return top.is_dir() or top.with_name(f"{top.name}.py").is_file()


def _other_root(name: str) -> Path | None:
    """Find the folder of a module that is not installed, or in editable mode; None for all other modules."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return None
    origin = _origin(top)
    if origin is None or {"site-packages", "dist-packages"} & set(origin.parts):
        return None
    return _root(origin, top)


def _origin(module: str) -> Path | None:
    """Find the Python file of a module; None if there is none."""
    try:
        found = importlib.util.find_spec(module) if module else None
    except Exception:  # the package around the module may raise anything; the later import reports it better
        return None
    return Path(found.origin).resolve() if found and found.origin and found.origin.endswith(".py") else None


def _root(file: Path, module: str) -> Path:
    """Return the folder that holds the outermost package of a module."""
    return file.parents[module.count(".") + (1 if file.stem == "__init__" else 0)]


def _find_file(source: str) -> Path:
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise InputError(expected="a Python file", got=f"{source}, which is not a file", hint="another path")
    return path


def _import_file(path: Path) -> ModuleType:
    name = f"aradals_file_{path.stem}_{uuid.uuid4().hex}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None  # because the suffix is .py
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find_attribute(module: ModuleType, attribute: str) -> object:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        nearest = difflib.get_close_matches(attribute, vars(module), n=1)
        raise InputError(
            expected=f"a callable in {module.__file__}",
            got=f"{attribute!r}, which does not exist",
            hint=nearest[0] if nearest else "the name of a function or class in this file",
        ) from error


@contextmanager
def _importable_from(folder: Path, *, forget: bool) -> Iterator[None]:
    """Let imports find the modules in ``folder``.

    With ``forget``, the files of two models may import different modules with the same name, such as ``layers``.
    Modules of this name that were imported from elsewhere are put aside for the block, except installed ones. Modules
    from this folder are removed from ``sys.modules`` afterwards.
    """
    importlib.invalidate_caches()  # the files may be newer than the import system's cache of the folder
    names = {entry.stem for entry in folder.iterdir()} if forget else set()
    aside = {name: module for name, module in sys.modules.items() if _is_shadowed(name, module, names)}
    for name in aside:
        del sys.modules[name]
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        for name in [each for each in sys.modules.keys() - known if each.partition(".")[0] in names - known]:
            del sys.modules[name]
        sys.modules.update(aside)


def _is_shadowed(name: str, module: ModuleType, names: set[str]) -> bool:
    """Return True for a module of users whose name is among those of a folder."""
    top = name.partition(".")[0]
    if top not in names or top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return False
    file = getattr(module, "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"} & set(Path(file).parts)
