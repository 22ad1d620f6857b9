"""The GPU with its GEMMs in TF32. The product of a step is one in the gemm schedule; in the others
it is a kernel's, and stays strict.
"""

from .. import cuda
from . import array, chunk, copy, elementwise, empty, fingerprint, finite, matvec, name, numpy  # noqa: F401  nothing of these is a GEMM
from .precision import in_tf32
from .precision import lacks_tf32 as missing  # noqa: F401

project, project_back = map(in_tf32, (cuda.project, cuda.project_back))
forward, backward, explain = map(in_tf32, (cuda.forward, cuda.backward, cuda.explain))
