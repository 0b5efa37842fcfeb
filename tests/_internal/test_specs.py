"""What stands for other people's code: the files that it consists of, wherever they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from aradals._internal.specs import code_digest


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_change_in_a_linked_file_is_noticed(tmp_path: Path) -> None:
    """Modules that several models share are often links."""
    write(tmp_path, models__net="from layers import build\n", shared__layers="import deep\n", shared__deep="A = 1\n")
    for name in ("layers", "deep"):
        (tmp_path / "models" / f"{name}.py").symlink_to(tmp_path / "shared" / f"{name}.py")
    (tmp_path / "link.py").symlink_to(tmp_path / "models" / "net.py")
    spec = f"{tmp_path / 'models' / 'net.py'}:build"
    first = code_digest(spec)
    assert first == code_digest(f"{tmp_path / 'link.py'}:build")
    write(tmp_path, shared__deep="A = 2\n")
    assert code_digest(spec) != first


def test_a_change_in_a_package_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, net="from pack.sub import A\n", pack__sub="from ..pack import rest\nfrom .rest import A\n")
    write(tmp_path, pack__rest="A = 1\n", other="A = 1\n")
    (tmp_path / "pack" / "__init__.py").touch()
    spec = f"{tmp_path / 'net.py'}:build"
    first = code_digest(spec)
    write(tmp_path, other="A = 2\n")
    assert code_digest(spec) == first
    write(tmp_path, pack__rest="A = 2\n")
    assert code_digest(spec) != first


def changes(spec: str, file: Path) -> bool:
    """Whether the digest of a spec notices a change in a file."""
    before = code_digest(spec)
    file.write_text(f"{file.read_text()}# changed\n")
    return code_digest(spec) != before


def test_modules_beside_the_folder_count_unless_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a package in editable mode, which lies anywhere on the path."""
    write(tmp_path, models__net="import torch, aradals\nimport our_layers\nimport theirs\nimport missing_at_all\n")
    write(tmp_path, lib__our_layers__parts="import deep.down\n", lib__our_layers__unused="A = 1\n")
    write(tmp_path, lib__deep__down="A = 1\n")
    (tmp_path / "lib" / "our_layers" / "__init__.py").write_text("from .parts import block\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "theirs.py").write_text("A = 1\n")
    for folder in ("lib", "site-packages"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    spec, lib = f"{tmp_path / 'models' / 'net.py'}:build", tmp_path / "lib"
    assert all(changes(spec, lib / "our_layers" / f"{name}.py") for name in ("__init__", "parts"))
    assert not changes(spec, lib / "our_layers" / "unused.py")
    assert changes(spec, lib / "deep" / "down.py")
    assert not changes(spec, tmp_path / "site-packages" / "theirs.py")


def test_a_package_in_the_working_directory_or_in_editable_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "elsewhere"):
        write(tmp_path / place, **{f"{place}_nets__zoo__small": "from ..blocks import conv\nfrom . import sizes\n"})
        write(tmp_path / place, **{f"{place}_nets__{name}": "" for name in ("blocks", "other", "zoo__sizes")})
        (tmp_path / place / f"{place}_nets" / "__init__.py").touch()
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    for place in ("here", "elsewhere"):
        spec, package = f"{place}_nets.zoo.small:build", tmp_path / place / f"{place}_nets"
        assert code_digest(spec) is not None
        files = ("__init__.py", "zoo/small.py", "zoo/sizes.py", "blocks.py")
        assert [changes(spec, package / name) for name in files] == [True] * 4, place
        assert not changes(spec, package / "other.py")
