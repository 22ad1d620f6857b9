"""Cells around a cell, with noise that comes in by p, behind the cell's own numbers: any masks; the
cell does not know of them.
"""

from .. import Cell
from ..binding.closures import tuple_over
from ..once import once


@once
def dropped(cell: Cell) -> Cell:
    """Dropout on the way through W (Gal and Ghahramani 2016): W sees m ⊙ s_{t-1}, m the same at
    every step.

    State 0 is m ⊙ the cell's own state 0; its own states follow. Drawn and kept: what the cell has,
    then m.
    """
    own_step, own_back = cell.step, cell.back
    P, S, K = (cell.gates + cell.drawn, cell.states, cell.kept)
    inputs, kept_within, own, others = part(0, P), part(0, K), part(1, S), part(2, S - 1)
    mask, kept_mask = part(P, 1), part(K, 1)

    def step(p, q, s):
        (m,) = mask(p)
        s_next, kept = own_step(inputs(p), q, own(s))
        return (m * s_next[0],) + s_next, kept + (m,)

    def back(ds, kept, s, s_next):
        (m,) = kept_mask(kept)
        total = (ds[1] + m * ds[0],) + others(ds)
        dp, dq, d = own_back(total, kept_within(kept), own(s), own(s_next))
        return dp, dq, (0.0,) + d  # m ⊙ s goes nowhere but through W

    more = {"states": 1 + S, "kept": K + 1, "drawn": cell.drawn + 1, "output": 1 + cell.output}
    return cell._replace(name=f"dropped_{cell.name}", step=step, back=back, **more)


@once
def zoned(cell: Cell) -> Cell:
    """Zoneout (Krueger et al. 2016): s_t = z ⊙ s_{t-1} + (1 − z) ⊙ s̃_t, s̃_t what the cell makes
    of s_{t-1}; each state has a z.

    z is 0 or 1 in training, and its mean, the rate, outside. Drawn: what the cell has, then z; kept
    likewise, then s̃ and z.
    """
    own_step, own_back = cell.step, cell.back
    P, S, K = (cell.gates + cell.drawn, cell.states, cell.kept)
    inputs, kept_within, made, masks = part(0, P), part(0, K), part(K, S), part(P, S)
    kept_masks = part(K + S, S)
    # exact where z is 0 or 1
    mixed = tuple_over(S, lambda k, made, z, s: z[k] * s[k] + (1.0 - z[k]) * made)
    let_in = tuple_over(S, lambda k, d, z: (1.0 - z[k]) * d)
    with_past = tuple_over(S, lambda k, d, z, ds: d + z[k] * ds[k])

    def step(p, q, s):
        z = masks(p)
        s_made, kept = own_step(inputs(p), q, s)
        return mixed(s_made, z, s), kept + s_made + z

    def back(ds, kept, s, s_next):
        z = kept_masks(kept)
        dp, dq, d = own_back(let_in(ds, z), kept_within(kept), s, made(kept))
        return dp, dq, with_past(d, z, ds)

    return cell._replace(
        name=f"zoned_{cell.name}", kept=K + 2 * S, drawn=cell.drawn + S, step=step, back=back
    )


def part(first: int, count: int):
    """a -> a[first : first + count] of a tuple: kernels know no slices."""
    return tuple_over(count, lambda k, value: value, first=first)


CELLS = ()  # none that is built in: these are made of others
