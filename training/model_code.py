"""The code that a registered model carries: the modules its pyfunc imports, copied into one package with a private name.

MLflow puts a model's code at the head of `sys.path`, where a package called `data` would hide that of the program that loads it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from functools import lru_cache
from pathlib import Path

#: What a pyfunc may import of ours; everything else it imports is installed with the model.
_ROOMS = frozenset({"configs", "data", "detection"})
#: Calls whose first argument names a package as text.
_BY_NAME = frozenset({"files", "import_module"})


def pack(entry: str, root: Path, folder: Path) -> tuple[str, Path]:
    """Copy a module and all that it imports of ours, at any depth, with their data files, into a package of `folder`.

    Args:
        entry: dotted name of the module.
        root: folder of the rooms.

    Returns:
        (dotted name of the copied entry, folder of the package). The package is named by a hash of what is in it.
    """
    modules = _closure(entry, root)
    files = set(modules.values())
    for package in (path.parent for path in modules.values() if path.name == "__init__.py"):
        files.update(
            path for path in package.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")
        )
    content = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(files)}
    digest = hashlib.sha256()
    for name, data in content.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    package_name = f"kubehabit_model_{digest.hexdigest()[:12]}"
    target = folder / package_name
    target.mkdir(parents=True)
    (target / "__init__.py").write_text('"""The code of one registered model of kubehabit."""\n')
    for name, data in content.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(_moved(data, package_name) if copy.suffix == ".py" else data)
    return f"{package_name}.{entry}", target


def _closure(entry: str, root: Path) -> dict[str, Path]:
    """Modules reached by imports from `entry`, with the packages they are in: dotted name -> file."""
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if name in found or path is None:
            continue
        found[name] = path
        waiting.append(name.rpartition(".")[0])
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in _imports(path.read_bytes()):
            waiting += _imported(node, package)
    return found


def _file(name: str, root: Path) -> Path | None:
    if not _is_ours(name):
        return None
    place = root.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@lru_cache(maxsize=1024)
def _imports(source: bytes) -> tuple[ast.Import | ast.ImportFrom | ast.Constant, ...]:
    """Import statements that run, and package names given as text to one of `_BY_NAME`; in no order."""
    found: list[ast.Import | ast.ImportFrom | ast.Constant] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.Call) and node.args and isinstance(named := node.args[0], ast.Constant):
            function = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if function in _BY_NAME and isinstance(named.value, str):
                found.append(named)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return tuple(found)


def _imported(node: ast.Import | ast.ImportFrom | ast.Constant, package: str) -> list[str]:
    """Dotted names in an import, each of a module or of something in one; relative ones are resolved against `package`."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _moved(source: bytes, package: str) -> bytes:
    """Source whose imports of our rooms name them inside `package`."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    # From the end, so that what is still to be changed keeps its place.
    for node in sorted(_imports(source), key=lambda one: (-one.lineno, -one.col_offset)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        renamed = _renamed(node, source[first:last].decode(), package)
        source = source[:first] + renamed.encode() + source[last:]
    return source


def _renamed(node: ast.Import | ast.ImportFrom | ast.Constant, text: str, package: str) -> str:
    if isinstance(node, ast.Import):
        return "; ".join(_renamed_import(alias, package) for alias in node.names)
    if isinstance(node, ast.Constant):
        name = str(node.value)
        return repr(f"{package}.{name}") if _is_ours(name) else text
    if node.level or not _is_ours(node.module or ""):
        return text
    return re.sub(r"^from\s+", f"from {package}.", text)


def _renamed_import(alias: ast.alias, package: str) -> str:
    name, bound = alias.name, alias.asname
    if not _is_ours(name):
        return f"import {name} as {bound}" if bound else f"import {name}"
    if bound:
        return f"import {package}.{name} as {bound}"
    # `import data.events` binds `data`.
    return f"import {package}.{name}; from {package} import {name.partition('.')[0]}"


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in _ROOMS
