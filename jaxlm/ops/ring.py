"""Ring attention: positions divided over devices, keys and values passed round (Liu et al. 2023, arXiv:2310.01889).

Each device keeps its queries and sees the keys of all others one hop after the other, while the next are under way.
The results over the keys of a hop are merged by their log-sum-exp, in float32: lse = log(e^lse_1 + e^lse_2),
o = o_1 e^(lse_1 - lse) + o_2 e^(lse_2 - lse). The backward pass sends the keys round again, and with them the gradients
of theirs, which arrive at home when the ring is closed. Saved are q, k, v, o and lse: memory is linear in the positions
of a device, and no T x T scores exist, not even those of one hop.

Who meets whom is in `ring_schedule`; what a device does at a hop in `blockwise_pieces`.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops import blockwise_pieces as pieces
from jaxlm.ops.blockwise import BLOCK
from jaxlm.ops.blockwise_pieces import How, Piece, cut
from jaxlm.ops.ring_schedule import Schedule, Task, schedule
from jaxlm.ops.rule import MASKED, Extras, Rule

(AXIS,) = sharding.RULES["positions"]


def ring_attention(
    q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule, block: int = BLOCK
) -> Array:
    """Self-attention of rows whose positions the mesh divides, exactly `attention.reference_attention`; (B, T, H, J).

    Where twice as many devices as divide the positions do not divide T, causal rows are not balanced.
    """
    n, extras = sharding.mesh_size("positions"), extras.numbered(*q_BTHK.shape[::2])
    plan = schedule(n, q_BTHK.shape[1] // n, rule, block)

    def local(q_BTHK, k_BTGK, v_BTGJ, *rest):
        return _attend(q_BTHK, k_BTGK, v_BTGJ, Extras(*rest).varying(q_BTHK), (rule, plan))

    heads = ("batch", "positions", "heads", None)
    return sharding.shard_map(local, [heads] * 3 + extras.names("positions"), heads, q_BTHK, k_BTGK, v_BTGJ, *extras)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BTHK, k_BTGK, v_BTGJ, extras, how):
    return _forward(q_BTHK, k_BTGK, v_BTGJ, extras, how)[0]


def _forward(q_BTHK, k_BTGK, v_BTGJ, extras, how):
    (rule, plan), G = how, k_BTGK.shape[2]
    q, k, v, *beside = (_in_order(x, plan) for x in (q_BTHK, k_BTGK, v_BTGJ, *extras[:2]))
    q_BGRTK, k_BGTK, v_BGTJ = pieces.queries_first(q, G), jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2)
    of_queries = Extras(*beside, *extras[2:])._replace(sinks_H=None)
    lse_BGRT = jnp.full_like(q_BGRTK[..., 0], MASKED, jnp.float32)
    if extras.sinks_H is not None:  # a key that is there before all others
        lse_BGRT = jnp.maximum(lse_BGRT, extras.sinks_H.reshape(lse_BGRT.shape[1:3])[None, :, :, None])
    o_BGJRT = jnp.zeros_like(lse_BGRT)[:, :, None] + jnp.zeros_like(v_BGTJ[:, :, 0, :, None, None], jnp.float32)

    def hop(carry, keys, _, tasks, source):
        for task in tasks:
            queries, of_keys, of_task, q_at, k_at = _pieces(task, of_queries, keys[2], rule, plan, source)
            q_task, k_task, v_task = cut(q_BGRTK, q_at, task.Q, 3), *(cut(x, k_at, task.K, 2) for x in keys[:2])
            part = pieces.forward(q_task, k_task, v_task, queries, of_keys, of_task, jnp.float32)
            old = tuple(cut(x, q_at, task.Q, x.ndim - 1) for x in carry)
            carry = tuple(
                lax.dynamic_update_slice_in_dim(x, new, q_at, x.ndim - 1)
                for x, new in zip(carry, _merged(old, part), strict=True)
            )
        return carry, None

    (o_BGJRT, lse_BGRT), _ = _round((o_BGJRT, lse_BGRT), (k_BGTK, v_BGTJ, Extras(*beside)), None, plan, hop)
    o_BTHJ = _in_order(pieces.positions_first(o_BGJRT).astype(q_BTHK.dtype), plan, back=True)
    o_BTHJ, lse_BGRT = checkpoint_name(o_BTHJ, "attention"), checkpoint_name(lse_BGRT, "attention")
    return o_BTHJ, (q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT)


def _backward(how, saved, do_BTHJ):
    q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT = saved
    (rule, plan), G = how, k_BTGK.shape[2]
    given = q_BTHK, do_BTHJ, pieces.delta(o_BTHJ, do_BTHJ), k_BTGK, v_BTGJ, *extras[:2]
    q, do, delta, k, v, *beside = (_in_order(x, plan) for x in given)
    of_rows = *(pieces.queries_first(x, G) for x in (q, do)), lse_BGRT, pieces.queries_first(delta, G)[..., 0]
    k_BGTK, v_BGTJ = jnp.moveaxis(k, 1, 2), jnp.moveaxis(v, 1, 2)
    of_queries = Extras(*beside, *extras[2:])
    sums = pieces.no_gradients(k_BGTK, v_BGTJ, lse_BGRT, extras)
    dq_BGKRT = jnp.moveaxis(jnp.zeros_like(of_rows[0], jnp.float32), -1, 2)

    def hop(carry, keys, dkeys, tasks, source):
        dq_BGKRT, dbias_BGRZ = carry
        for task in tasks:
            queries, of_keys, of_task, q_at, k_at = _pieces(task, of_queries, keys[2], rule, plan, source)
            q_task, do_task, lse_task, delta_task = (cut(x, q_at, task.Q, 3) for x in of_rows)
            k_task, v_task, dk_task, dv_task = (cut(x, k_at, task.K, 2) for x in (*keys[:2], *dkeys))
            args = q_task, k_task, v_task, do_task, lse_task, delta_task, queries, of_keys, of_task
            dq_task, new = pieces.backward(*args, pieces.Gradients(dk_task, dv_task, dbias_BGRZ))
            dq_task += cut(dq_BGKRT, q_at, task.Q, 4)
            dq_BGKRT = lax.dynamic_update_slice_in_dim(dq_BGKRT, dq_task, q_at, 4)
            dkeys = tuple(
                lax.dynamic_update_slice_in_dim(x, part, k_at, 2) for x, part in zip(dkeys, new[:2], strict=True)
            )
            dbias_BGRZ = new.dbias_BGRZ
        return (dq_BGKRT, dbias_BGRZ), dkeys

    carry = dq_BGKRT, sums.dbias_BGRZ
    (dq_BGKRT, dbias_BGRZ), dkeys = _round(carry, (k_BGTK, v_BGTJ, Extras(*beside)), sums[:2], plan, hop)
    dq = pieces.positions_first(dq_BGKRT).astype(q.dtype)
    dk, dv = (jnp.moveaxis(x, 2, 1).astype(like.dtype) for x, like in zip(dkeys, (k, v), strict=True))
    dq, dk, dv = (_in_order(x, plan, back=True) for x in (dq, dk, dv))
    sums = sums._replace(dbias_BGRZ=dbias_BGRZ)
    return dq, dk, dv, pieces.extras_gradients(extras, sums, lse_BGRT, of_rows[3])


_attend.defvjp(_forward, _backward)


def _merged(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """One result (B, G, J, R, T) and its log-sum-exp of two, over other keys each."""
    (o_a, lse_a), (o_b, lse_b) = a, b
    lse = jnp.logaddexp(lse_a, lse_b)
    return o_a * jnp.exp(lse_a - lse)[:, :, None] + o_b * jnp.exp(lse_b - lse)[:, :, None], lse


def _pieces(task: Task, of_queries: Extras, of_keys: Extras, rule: Rule, plan: Schedule, source: Any) -> tuple:
    """The task's queries and keys as `blockwise_pieces` wants them told, how, and where they begin."""
    me = lax.axis_index(AXIS)
    half = jnp.where(source < me, 0, plan.T // 2)
    q_at, k_at = (half if start is None else start for start in (task.q, task.k))
    stretch = lambda x, start, size: Extras(*(cut(e, start, size, 1) for e in x[:2]), *x[2:])
    queries = Piece(stretch(of_queries, q_at, task.Q), _place(me, q_at, plan))
    keys = Piece(stretch(of_keys, k_at, task.K), _place(source, k_at, plan))
    return queries, keys, How(rule, plan.C, task.bands(plan.C, rule)), q_at, k_at


def _place(device: Any, start: Any, plan: Schedule) -> Array:
    """Where in the row the token stands that device `device` has at `start`."""
    if not plan.zigzag:
        return device * plan.T + start
    c = plan.T // 2
    return jnp.where(start < c, device * c, (2 * plan.n - 2 - device) * c) + start


def _round(carry: Any, keys: Any, dkeys: Any, plan: Schedule, hop: Any) -> tuple[Any, Any]:
    """`carry, dkeys = hop(carry, keys, dkeys, tasks, source)` at every hop; keys go on while a hop computes, and their
    gradients after it, in the end back home. Equal hops are one loop."""
    n, me, last = plan.n, lax.axis_index(AXIS), plan.first + len(plan.hops) - 1
    keys, done = _shift(keys, plan.first, n), 0

    def step(tasks, send, state, offset):
        carry, keys, dkeys = state
        sent = _shift(keys, 1, n) if send else keys
        carry, dkeys = hop(carry, keys, dkeys, tasks, (me - offset) % n)
        return (carry, sent, _shift(dkeys, 1 if send else -last, n)), None

    state = carry, keys, dkeys
    for tasks, group in itertools.groupby(plan.hops):
        count, offset = len(list(group)), plan.first + done
        done += count
        alone = done == len(plan.hops)  # the last hop of all sends no keys on
        many = count - alone
        if many == 1:
            state, _ = step(tasks, True, state, offset)
        elif many:
            state, _ = lax.scan(functools.partial(step, tasks, True), state, offset + jnp.arange(many))
        if alone:
            state, _ = step(tasks, False, state, last)
    return state[0], state[2]


def _shift(tree: Any, by: int, n: int) -> Any:
    """Every device's arrays, given to the `by`-th after it."""
    if by % n == 0:
        return tree
    return jax.tree.map(lambda x: lax.ppermute(x, AXIS, [(i, (i + by) % n) for i in range(n)]), tree)


def _in_order(x: Array | None, plan: Schedule, back: bool = False) -> Any:
    """(B, T, ...) from the order of the row to that of the schedule, or back.

    Piece p of 2 n lies on device p // 2 and belongs to device p or 2 n - 1 - p: the even ones to other devices each, as
    the odd ones, so two permutations bring all. On an even device the even piece is the low one.
    """
    if x is None or not plan.zigzag:
        return x
    n, c = plan.n, plan.T // 2
    owner = lambda piece: min(piece, 2 * n - 1 - piece)
    ways = [[(i, owner(2 * i + odd)) for i in range(n)] for odd in (0, 1)]
    parts = x[:, :c], x[:, c:]
    even = lax.axis_index(AXIS) % 2 == 0
    swapped = lambda a, b: (jnp.where(even, a, b), jnp.where(even, b, a))
    if back:
        parts = (lax.ppermute(part, AXIS, [(j, i) for i, j in way]) for part, way in zip(swapped(*parts), ways))
        return jnp.concatenate(list(parts), 1)
    return jnp.concatenate(swapped(*(lax.ppermute(part, AXIS, way) for part, way in zip(parts, ways))), 1)
