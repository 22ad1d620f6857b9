"""`python -m rnn_gpu.cli`, as `rnn-gpu`."""

from . import main

if __name__ == "__main__":
    main()
