"""Kernels whose only purpose is to be compiled: what the intrinsics of clusters, packets and tensor
cores become.
"""

import numpy as np

from rnn_gpu.kernels.devices.cuda import clusters, packets, tensor_ops
from rnn_gpu.kernels.devices.cuda.launch import cuda
from rnn_gpu.kernels.devices.cuda.ptx import place, quad, shared_place

MASK = 0xFFFFFFFF


def cluster_kernel(number, size: int = 4):
    """Every number of a block to the next one of its cluster, alone and by fours."""
    together, mbarriers = clusters.in_clusters_of(size), clusters.mbarriers_of(2)
    remote, send, send_four = clusters.remote, clusters.send, clusters.send_four
    init, fence, arm = clusters.init_mbarrier, clusters.fence_mbarriers, clusters.arm
    meet, await_phase, rank = clusters.meet, clusters.await_phase, clusters.cluster_rank
    bytes = 128 * 5 * number().itemsize

    @cuda.jit(launch_bounds=128)
    def exchange(x, out):
        together()
        shared, i = cuda.shared.array(0, number, 16), cuda.threadIdx.x
        full, _ = mbarriers()
        if i == 0:
            init(full, 1)
            fence()
            arm(full, bytes)
        meet()
        to = (rank() + 1) % size
        mine, counted, a = remote(shared_place(shared, i), to), remote(full, to), x[i]
        send(shared, mine, 512, a, counted)
        send_four(shared, mine, 3 * i, (a, a, a, a), counted)
        await_phase(full, 0)
        b = quad(shared, shared_place(shared, 4 * i), 0)
        out[i] = (b[0] + b[1]) + (b[2] + b[3]) + shared[512 + i]

    return exchange


def packet_kernel(number):
    """A number to the block next door, and what comes from there."""
    put, get = packets.packets_of(number)[1:]

    @cuda.jit(launch_bounds=128)
    def exchange_words(x, out, words):
        i, there = cuda.grid(1), False
        first = place(words, 0)
        put(words, first, i, x[i], np.int32(1))
        while not there:
            value, there = get(words, first, i ^ 128, np.int32(1))
        out[i] = value

    return exchange_words


def tensor_kernel(number):
    """One product of each kind."""
    mma_tf32, mma_bf16 = tensor_ops.mma_tf32, tensor_ops.mma_bf16
    to_tf32, pack, low = tensor_ops.to_tf32, tensor_ops.pack_bf16, tensor_ops.low_bf16
    ZERO = number(0)

    @cuda.jit(launch_bounds=32)
    def multiply(x, out):
        i = cuda.threadIdx.x
        a, b = to_tf32(x[i]), to_tf32(x[i + 32])
        c = mma_tf32((a, b, a, b), (a, b), (ZERO, ZERO, ZERO, ZERO))
        word = pack(x[i], x[i + 32])
        d = mma_bf16((word, word, word, word), (word, word), c)
        out[i] = d[0] + d[1] + d[2] + d[3] + low(word)

    return multiply
