"""The library's modules, wherever it is installed, and what each imports."""

import ast

from programs import KERNELS, LIBRARY

FOLDERS = {"rnn_gpu.kernels": KERNELS, "rnn_gpu": LIBRARY}


def modules():
    """Dotted name -> file, of every module of the library, wherever it is installed."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found.setdefault(name, path)
    return found


MODULES = modules()


def imports(name):
    """What a module imports anywhere in its text: dotted names, of ours and of others."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join(base + ([node.module] if node.module else []))
            for alias in node.names:
                ours = base.startswith("rnn_gpu") and f"{base}.{alias.name}" not in MODULES
                yield base if ours else f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args:
            text = (
                node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            )
            if isinstance(text, ast.Constant):
                yield text.value.rstrip(".")


def is_ours(name):
    return name.split(".")[0] == "rnn_gpu"
