"""`Device.arriving` in a kernel: dE/ds from map to map, a block a sample.

Some threads share each number of a state: each sums a part of its products, and one adds the parts.
The numbers of the next map are loaded meanwhile: they wait for nothing.
"""

import numpy as np

from ...binding.closures import each, tuple_of
from .compiled import factory
from .launch import ROUND_TO, THREADS, arrays, cuda, device_function, launch
from .plans import SCHEDULERS, STALL, WARP
from .pointwise import sum_over
from .ptx import distance, flat, load, place, store
from .transfer import up

NUMBERS = 128  # of a state, at most


@factory
def arriving_kernel(number, N: int, n: int, parts: int):
    each_part, ZERO, shares_of_all = -(-N // parts), number(0), parts * N
    MAP, PLACES = (N + 1) * N, each_part * parts
    # the last part takes each_part rows too: those that are the part's before it times zero
    BEYOND, LAST_PART = PLACES - N, PLACES - each_part

    @device_function
    def load_row(k, flat_maps, at, weights):
        weights[k] = load(flat_maps, at, k * N)

    load_rows = each(each_part, load_row, device_function)

    @device_function
    def product(k, weights, state, first):
        return weights[k] * state[first + k]

    products = tuple_of(each_part, product, device_function)
    total = sum_over(each_part)

    @device_function
    def sum_shares(value, shares, i):
        for k in range(parts):
            value += shares[k * N + i]
        return value

    @cuda.jit(launch_bounds=up(N * parts, ROUND_TO))
    def arriving(maps, ds, out):
        """`Device.arriving`, a sample a block.  out (S, C·B, n)."""
        state, shares = cuda.shared.array(PLACES, number), cuda.shared.array(shares_of_all, number)
        weights = cuda.local.array(each_part, number)
        B, b, all_maps, all_out = ds.shape[1], cuda.blockIdx.x, flat(maps), flat(out)
        part = cuda.threadIdx.x // N
        i, here, first = cuda.threadIdx.x - part * N, part < parts, part * each_part
        chunks = np.int32(maps.shape[0] // B)
        last = np.int64(maps.shape[0] - B + b)
        own_place = i if i < LAST_PART else i + BEYOND
        at = place(maps, last * MAP + min(first, N - each_part) * N + i)
        direct_at = place(maps, last * MAP + N * N + i)
        to = place(out, (i // n * np.int64(maps.shape[0]) + last) * n + i % n)
        back, out_back = distance(all_maps, -B * MAP), distance(all_out, -B * n)
        own, direct = ZERO, ZERO
        if part == 0:
            own = ds[i // n, b, i % n]
            state[own_place] = own
            if i < BEYOND:
                state[LAST_PART + i] = ZERO
        if here:
            load_rows(all_maps, at, weights)
            direct = load(all_maps, direct_at, 0)
        cuda.syncthreads()
        while chunks > 0:
            if part == 0:
                store(all_out, to, 0, own)
            if here:
                shares[part * N + i] = total(products(weights, state, first))
            own = direct
            if here and chunks > 1:  # while the others add up
                at, direct_at = at + back, direct_at + back
                load_rows(all_maps, at, weights)
                direct = load(all_maps, direct_at, 0)
            cuda.syncthreads()
            if part == 0:
                own = sum_shares(own, shares, i)
                state[own_place] = own
            cuda.syncthreads()
            to += out_back
            chunks = np.int32(chunks - 1)

    return arriving


def parts_of(N: int) -> int:
    """Threads that share each number of a state: as many as a block has that may have some 120
    registers each. The last may have fewer products than the others.
    """
    each = -(-N // max(1, min(N, 2 * THREADS // N)))
    return -(-N // each)


def arriving(maps, ds):
    """`Device.arriving` of at most so many numbers of a state as NUMBERS."""
    (rows, _, N), (S, B, n) = maps.shape, ds.shape
    out, parts = arrays().empty((S, rows, n), ds.dtype), parts_of(N)
    kernel = arriving_kernel(ds.dtype.type, N, n, parts)
    launch(kernel, B, up(N * parts, ROUND_TO), maps, ds, out)
    return out


# An estimate of cycles, as that of plans.py; instructions are read off SASS of sm_90.

A_CHUNK = 28  # instructions of a thread: addresses, two barriers
A_PRODUCT = 4  # beside those
A_SHARE = 3  # likewise, of threads that add shares up


def issued(N: int) -> tuple[int, int]:
    """Instructions of one chunk of each warp; and of those that add up, beside them."""
    parts = parts_of(N)
    return A_CHUNK + A_PRODUCT * -(-N // parts), A_SHARE * parts


def cycles(N: int, itemsize: int) -> float:
    """Of one chunk: products, the sum of parts, two barriers."""
    parts = parts_of(N)
    (products, shares), warps, adding = issued(N), -(-N * parts // WARP), -(-N // WARP)
    busy = itemsize // 4 * (products * warps + shares * adding) / SCHEDULERS
    return STALL + 10 * parts + busy
