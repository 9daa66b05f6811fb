"""Compiled loops over the edges of a wiring, for four stimuli at once: what a vector register of a processor holds.

Two layouts of the same edges. CSR, sorted by target or by source, suits any wiring. *Runs* suit lattices: edges that
follow each other from neighbouring sources to neighbouring targets with one weight (source + k -> target + k) need no
index of their own, and stream through memory. Single precision; one thread; other threads may run meanwhile.
"""

from typing import Any

import numpy as np
from numba import njit

LANES = 4
_EXACT = {"contract"}
_SUMS = {"contract", "reassoc"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def csr_forward(start: Any, source: Any, edge_class: Any, w: Any, x: Any, y: Any) -> None:
    """y[i] = sum over edges j -> i of w[class] x[j]; x and y (N, 4), w (classes,)."""
    for i in range(len(start) - 1):
        a0 = a1 = a2 = a3 = np.float32(0.0)
        for e in range(start[i], start[i + 1]):
            j, c = source[e], w[edge_class[e]]
            a0 += c * x[j, 0]
            a1 += c * x[j, 1]
            a2 += c * x[j, 2]
            a3 += c * x[j, 3]
        y[i, 0], y[i, 1], y[i, 2], y[i, 3] = a0, a1, a2, a3


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def csr_backward(start: Any, target: Any, edge_class: Any, w: Any, x: Any, g: Any, dx: Any, dw: Any) -> None:
    """From the gradient g of y those of x, dx, and of the weight classes, added to dw: one pass over the transpose."""
    for j in range(len(start) - 1):
        x0, x1, x2, x3 = x[j, 0], x[j, 1], x[j, 2], x[j, 3]
        a0 = a1 = a2 = a3 = np.float32(0.0)
        for e in range(start[j], start[j + 1]):
            i, place = target[e], edge_class[e]
            g0, g1, g2, g3 = g[i, 0], g[i, 1], g[i, 2], g[i, 3]
            c = w[place]
            a0 += c * g0
            a1 += c * g1
            a2 += c * g2
            a3 += c * g3
            dw[place] += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3
        dx[j, 0], dx[j, 1], dx[j, 2], dx[j, 3] = a0, a1, a2, a3


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def runs_forward(source: Any, target: Any, length: Any, run_class: Any, w: Any, x: Any, y: Any) -> None:
    """As `csr_forward`, over runs."""
    from_, to = x.ravel(), y.ravel()
    to[:] = 0.0
    for r in range(len(source)):
        c, n = w[run_class[r]], LANES * length[r]
        xs, ys = from_[LANES * source[r] : LANES * source[r] + n], to[LANES * target[r] : LANES * target[r] + n]
        for k in range(n):
            ys[k] += c * xs[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def runs_backward(
    source: Any, target: Any, length: Any, run_class: Any, w: Any, x: Any, g: Any, dx: Any, dw: Any
) -> None:
    """As `csr_backward`, over runs."""
    seen, grad, found = x.ravel(), g.ravel(), dx.ravel()
    found[:] = 0.0
    for r in range(len(source)):
        c, n = w[run_class[r]], LANES * length[r]
        a, b = LANES * source[r], LANES * target[r]
        xs, gs, ds = seen[a : a + n], grad[b : b + n], found[a : a + n]
        total = np.float32(0.0)
        for k in range(n):
            ds[k] += c * gs[k]
            total += gs[k] * xs[k]
        dw[run_class[r]] += total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def relax(u: Any, rest: Any, rate: Any, movie: Any, seeing: Any, column: Any, v: Any, r: Any) -> None:
    """One Euler step from the synaptic input u: v += rate (u + rest + movie - v), r = relu(v)."""
    for k in range(len(seeing)):
        for b in range(LANES):
            u[seeing[k], b] += movie[column[k], b]
    us, own, rates, vs, rs = u.ravel(), rest.ravel(), rate.ravel(), v.ravel(), r.ravel()
    for k in range(len(us)):
        new = vs[k] + rates[k] * (us[k] + own[k] - vs[k])
        vs[k] = new
        rs[k] = max(new, np.float32(0.0))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def euler_csr(
    start: Any, source: Any, edge_class: Any, w: Any, rest: Any, rate: Any, seeing: Any, column: Any, movie: Any,
    v: Any, cells: Any, out: Any,
) -> None:  # fmt: skip
    """Forward Euler of v' = (-v + rest + W relu(v) + movie) / tau for one model and four stimuli.

    movie (T, C, 4), added at columns (K,) to the cells `seeing` (K,); v, rest and rate = dt / tau are (N, 4); v is
    overwritten; cells (R,) are recorded into out (T, R, 4).
    """
    r, u = np.maximum(v, np.float32(0.0)), np.empty_like(v)
    for t in range(movie.shape[0]):
        csr_forward(start, source, edge_class, w, r, u)
        relax(u, rest, rate, movie[t], seeing, column, v, r)
        for k in range(len(cells)):
            out[t, k] = v[cells[k]]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def euler_runs(
    source: Any, target: Any, length: Any, run_class: Any, w: Any, rest: Any, rate: Any, seeing: Any, column: Any,
    movie: Any, v: Any, cells: Any, out: Any,
) -> None:  # fmt: skip
    """As `euler_csr`, over runs."""
    r, u = np.maximum(v, np.float32(0.0)), np.empty_like(v)
    for t in range(movie.shape[0]):
        runs_forward(source, target, length, run_class, w, r, u)
        relax(u, rest, rate, movie[t], seeing, column, v, r)
        for k in range(len(cells)):
            out[t, k] = v[cells[k]]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def advance(u: Any, rest: Any, rate: Any, kind: Any, seeing: Any, seen: Any, v: Any, out: Any) -> None:
    """One Euler step as `relax`, from v into out; rest and rate (types,) by the type of each cell, seen (K, 4)."""
    for k in range(len(seeing)):
        for b in range(LANES):
            u[seeing[k], b] += seen[k, b]
    for i in range(len(kind)):
        a, p = rate[kind[i]], rest[kind[i]]
        for b in range(LANES):
            out[i, b] = v[i, b] + a * (u[i, b] + p - v[i, b])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def retreat(g: Any, v: Any, out: Any, rate: Any, kind: Any, gu: Any, drest: Any, drate: Any) -> None:
    """From the gradient g of `advance`'s out those of the synaptic input, gu, and, added, of rest and rate."""
    for i in range(len(kind)):
        t = kind[i]
        a, total, moved = rate[t], np.float32(0.0), np.float32(0.0)
        for b in range(LANES):
            gu[i, b] = a * g[i, b]
            total += g[i, b]
            moved += g[i, b] * (out[i, b] - v[i, b])
        drest[t] += a * total
        drate[t] += moved / a


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_EXACT)
def combine(g: Any, v: Any, rate: Any, kind: Any, dv: Any) -> None:
    """Gradient of v: what came through the rates, in dv where v > 0, and g (1 - rate)."""
    for i in range(len(kind)):
        kept = np.float32(1.0) - rate[kind[i]]
        for b in range(LANES):
            through = dv[i, b] if v[i, b] > 0.0 else np.float32(0.0)
            dv[i, b] = through + kept * g[i, b]
