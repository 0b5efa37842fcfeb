"""What stands for other people's code: the files that it consists of, wherever they lie."""

from __future__ import annotations

from pathlib import Path

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
