"""The built-in cells. A file of this folder that offers `CELLS` is found here, and by the tests."""

from importlib import import_module
from pkgutil import iter_modules

CELLS = {cell.name: cell for module in iter_modules(__path__) for cell in import_module(f"{__name__}.{module.name}").CELLS}
