"""What is written by hand around every network: windows of a series, scalers, vocabularies, the
calendar as features; and what a trained network says comes next.
"""

from .calendar import time_features
from .going_on import forecast, generate
from .scaling import Scaler
from .series import Windows, windows
from .vocabulary import Vocabulary

__all__ = ["Scaler", "Vocabulary", "Windows", "forecast", "generate", "time_features", "windows"]
