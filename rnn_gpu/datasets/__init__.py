"""Two small data sets that need no download: `vowels` (sequence to label) and `python_manual`
(character by character).
"""

from ._python_manual import Text, python_manual
from ._sequences import Sequences
from ._vowels import vowels

__all__ = ["Sequences", "Text", "python_manual", "vowels"]
