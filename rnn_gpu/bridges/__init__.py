"""Ways to and from what is not ours: files, torch, Keras's and torch's weights, ONNX,
scikit-learn, matplotlib.

io       named arrays in a file, written whole or not at all
weights  parameters under torch's names, and as Keras's lists
torch    modules of torch's that run on our kernels; at the door `rnn_gpu.torch`
torch.rl torchrl's modules on these; at the door `rnn_gpu.rl`
onnx     a network as an ONNX graph; at the door `rnn_gpu.onnx`
sklearn  scikit-learn's estimators; at the door `rnn_gpu.sklearn`
plots    pictures

Nothing is imported here: each bridge needs what stands at its other end, and only who crosses it
pays.
"""
