"""How many kernels were compiled, and how many found on disk, by every device."""

counted = {"compiled": 0, "found": 0}  # since this process began
