"""The house rules of docs/architecture.md, held by reading the imports and the names of ftfw/."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def _name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name_of(path): ast.parse(path.read_text()) for path in ROOT.glob("ftfw/**/*.py")}

# The rules' exceptions. An exception that the code no longer needs fails a test, so that these lists only shrink.

IMPURE = {
    ("ftfw.config.schema", "socket"),  # the default of node.name is the host's name
}
"""Imports that a pure module may not have."""

# What the rules are about

PURE = (
    *("ftfw.config", "ftfw.replication", "ftfw.security", "ftfw.kernel"),
    *("ftfw.control.status_fields", "ftfw.control.notification_words", "ftfw.daemon.roles", "ftfw.daemon.gate_rules"),
    "ftfw.daemon.metrics.metric_families",
    *("ftfw.link.framing", "ftfw.link.socket_filter", "ftfw.cli.migration", "ftfw.cli.check.keepalived_conf"),
    "ftfw.cli.brace_syntax",
)
"""Modules and packages that get time, randomness and bytes as arguments."""

WORLDLY = {
    *("ftfw.kernel.netlink", "ftfw.kernel.injector", "ftfw.kernel.helpers"),
    "ftfw.security.key_file",
}
"""Modules in these packages that touch the world."""

WORLD = {
    *("asyncio", "ctypes", "os", "random", "secrets", "select", "signal", "socket", "subprocess"),
    *("threading", "time", "trio"),
}
"""What touches the world: sockets, clocks, randomness, processes."""

HEAVY = {"trio", "pydantic", "cryptography", "msgpack", "zstandard", "rich"}
"""Libraries that a command on the failover path does not wait for."""


def _is_in(module: str, places: tuple[str, ...] | set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield the module that each import statement below a node names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return every module that a module of ftfw imports, in functions too."""
    return frozenset(_imported(MODULES[module]))


def loaded_by(module: str) -> set[str]:
    """Return every module that is loaded with a module of ftfw: the imports outside of functions, followed."""
    loaded: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in loaded:
            continue
        loaded.add(name)
        if name in MODULES:
            waiting += (name.rpartition(".")[0],) if "." in name else ()
            body = [
                each
                for each in MODULES[name].body
                if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and not (isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING")
            ]
            waiting += [found for statement in body for found in _imported(statement)]
    return loaded


def package_of(module: str) -> str:
    """Return the name at the top level of ftfw that a module is below; nothing for modules outside."""
    return module.split(".")[1] if module.startswith("ftfw.") else ""


def table_of_packages() -> list[tuple[str, set[str], set[str]]]:
    """Return the rows of the page's table: package, packages that it imports, packages that import it."""
    section = PAGE.partition("\n## Packages\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if re.match(r"\| `\w+/` \|", line)]
    return [
        (package.strip(" `/"), set(re.findall(r"`(\w+)`", imports)), set(re.findall(r"`(\w+)`", imported_by)))
        for package, _promise, imports, imported_by in rows
    ]


# Packages


def test_every_module_that_the_page_names_exists() -> None:
    packages = "|".join(package for package, _, _ in table_of_packages())
    named = set(re.findall(rf"\b((?:{packages})/\w+(?:/\w+)*)", PAGE))
    assert len(named) > 40
    assert {name for name in named if f"ftfw.{name.replace('/', '.')}" not in MODULES} == set()


def test_the_table_has_every_package_and_at_most_ten_names_are_at_the_top() -> None:
    top = {path.name for path in (ROOT / "ftfw").iterdir()} - {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    assert len(top) <= 10
    assert {package for package, _, _ in table_of_packages()} == top


def test_a_package_imports_what_the_table_says() -> None:
    found: dict[str, set[str]] = {package: set() for package, _, _ in table_of_packages()}
    for module in MODULES:
        if package_of(module) in found:
            within = {package_of(name) for name in imports_of(module)}
            found[package_of(module)] |= within - {"", package_of(module)}
    assert found == {package: imports for package, imports, _ in table_of_packages()}


def test_a_package_is_imported_by_those_that_the_table_says() -> None:
    rows = table_of_packages()
    for package, _, imported_by in rows:
        assert imported_by == {name for name, imports, _ in rows if package in imports}, package


def test_a_package_imports_only_packages_further_down_the_table() -> None:
    order = [package for package, _, _ in table_of_packages()]
    for package, imports, _ in table_of_packages():
        assert imports <= set(order[order.index(package) + 1 :]), package


def test_nobody_imports_the_commands_and_the_lab_imports_nobody() -> None:
    by_name = {package: (imports, imported_by) for package, imports, imported_by in table_of_packages()}
    assert by_name["cli"][1] == set()
    assert by_name["lab"][0] == set()
    assert by_name["system"][0] == set()


# Modules


def pure_modules() -> set[str]:
    return {module for module in MODULES if _is_in(module, PURE) and module not in WORLDLY}


def impure_imports() -> set[tuple[str, str]]:
    """Return the imports that make a module impure: of the world, and of modules of ftfw that are not pure."""
    pure = pure_modules()
    packages = {name for name in MODULES if any(each.startswith(f"{name}.") for each in MODULES)}
    return {
        (module, name)
        for module in pure
        for name in imports_of(module)
        if name.partition(".")[0] in WORLD or (name in MODULES and name not in pure | packages)
    }


def test_pure_modules_import_nothing_that_touches_the_world() -> None:
    assert {"ftfw.replication.backup", "ftfw.security.freshness", "ftfw.kernel.event_selector"} <= pure_modules()
    assert impure_imports() == IMPURE


def test_the_page_names_the_pure_parts() -> None:
    rules = PAGE.partition("\n## Import rules\n")[2].partition("\n- Only `kernel/`")[0]
    named = set(re.findall(r"`([\w/]+)`", rules))
    for place in PURE:
        path = place.removeprefix("ftfw.").replace(".", "/")
        assert named & {path, f"{path}/"}, path
    assert {module.rpartition(".")[2] for module in WORLDLY} <= named


def test_only_the_kernel_package_imports_the_kernels_numbers() -> None:
    found = {module for module in MODULES if "ftfw.kernel.uapi" in imports_of(module)}
    assert {module for module in found if package_of(module) != "kernel"} == set()


@pytest.mark.parametrize("module", ["ftfw.control.client", "ftfw.cli.commands"])
def test_a_command_on_the_failover_path_loads_neither_the_daemon_nor_a_heavy_library(module: str) -> None:
    loaded = loaded_by(module)
    assert {name for name in loaded if name.partition(".")[0] in HEAVY} == set()
    assert {name for name in loaded if _is_in(name, {"ftfw.daemon"})} == set()


def test_the_daemon_loads_heavy_libraries_so_the_test_above_can_fail() -> None:
    assert {"trio", "pydantic"} <= loaded_by("ftfw.daemon.node")


# Names


def test_no_two_modules_have_one_name_nor_one_of_the_standard_library() -> None:
    counts = Counter(module.rpartition(".")[2] for module in MODULES)
    names = [name for name in counts if name not in {"__main__", "ftfw"}]
    assert {name for name in names if counts[name] > 1} == set()
    assert {name for name in names if name in sys.stdlib_module_names} == set()


def test_no_two_public_classes_have_one_name() -> None:
    counts = Counter(
        node.name
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in counts.items() if count > 1} == set()


def test_docstrings_begin_with_a_whole_sentence() -> None:
    """A class or a module may be described by a noun; a function does something."""
    fragment = r"(Whether|What|Those|Of|How|As|Who|Where|Which|Behind|Beside)\b"
    noun = r"(The|A|An|Its|All|Each|Every|When|Whose)\b"
    found = [
        f"{module}: {docstring.splitlines()[0]}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
        and (docstring := ast.get_docstring(node))
        and re.match(fragment if isinstance(node, ast.ClassDef | ast.Module) else f"{fragment}|{noun}", docstring)
    ]
    assert not found, "\n".join(found)
