"""Everything rnn_gpu raises on purpose.

RnnGpuError
├── ArgumentError (ValueError)      an argument cannot be used: which, what came, what was expected
│   ├── ShapeError                  its shape
│   ├── DtypeError                  its dtype
│   └── DerivativeError             a user's derivative is not the slope of the function
├── DeviceError (RuntimeError)      the device that was asked for is not there
├── UnsupportedError (NotImplementedError)  what another library offers and this one does not
├── OrderError (RuntimeError)       backward before forward
├── NonFiniteError (ArithmeticError)  NaN or infinity in training, found before a weight changed
├── GradientError (ArithmeticError) gradcheck found a gradient that is not the slope of the loss
└── ModelFileError (OSError)        a model file cannot be read
"""


class RnnGpuError(Exception):
    """The root of the tree."""


class ArgumentError(RnnGpuError, ValueError):
    """An argument cannot be used."""


class ShapeError(ArgumentError):
    """An array has the wrong rank or size."""


class DtypeError(ArgumentError):
    """An array has the wrong dtype. Nothing is promoted or rounded silently."""


class DerivativeError(ArgumentError):
    """A derivative given by the user disagrees with the slope of its function."""


class DeviceError(RnnGpuError, RuntimeError):
    """The device that was asked for cannot be used here."""


class UnsupportedError(RnnGpuError, NotImplementedError):
    """Another library offers this, and we do not."""


class OrderError(RnnGpuError, RuntimeError):
    """A call came before the one that it needs."""


class NonFiniteError(RnnGpuError, ArithmeticError):
    """A loss or a gradient is NaN or infinite. No weight has changed."""


class GradientError(RnnGpuError, ArithmeticError):
    """A gradient is not the slope of the loss."""


class ModelFileError(RnnGpuError, OSError):
    """A model file is damaged, or is not one of ours."""
