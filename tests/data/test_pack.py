import numpy as np
import pytest

from jaxlm.data import pack

EOT = 9


def slow_pack(rows: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    B, T = rows.shape[0], rows.shape[1] - 1
    names = ("tokens", "labels", "segments", "positions", "weights")
    out = {name: np.zeros((B, T), np.float32 if name == "weights" else np.int32) for name in names}
    for b in range(B):
        segment = position = 0
        for t in range(T):
            out["tokens"][b, t], out["labels"][b, t] = rows[b, t], rows[b, t + 1]
            if t == 0 or rows[b, t] == EOT:
                segment, position = segment + 1, 0
            if t < lengths[b]:
                out["segments"][b, t], out["positions"][b, t], out["weights"][b, t] = segment, position, 1
            position += 1
    return out


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
@pytest.mark.parametrize("T", [1, 2, 33])
def test_against_the_definition(dtype: type, T: int) -> None:
    chance = np.random.default_rng(T)
    for _ in range(20):
        rows = chance.integers(6, 10, (5, T + 1)).astype(dtype)
        lengths = chance.integers(0, T + 1, 5)
        for given in (None, lengths):
            got = pack(rows, EOT, given)
            want = slow_pack(rows, np.full(5, T) if given is None else given)
            assert list(got) == list(want)
            for name in want:
                np.testing.assert_array_equal(got[name], want[name], err_msg=name)
                assert got[name].dtype == want[name].dtype and got[name].flags.c_contiguous


def test_a_row_worked_by_hand() -> None:
    batch = pack(np.array([[1, 2, EOT, 3, EOT, EOT, 4]], np.uint16), EOT)
    assert batch["tokens"].tolist() == [[1, 2, 9, 3, 9, 9]]
    assert batch["labels"].tolist() == [[2, 9, 3, 9, 9, 4]]
    assert batch["segments"].tolist() == [[1, 1, 2, 2, 3, 4]]
    assert batch["positions"].tolist() == [[0, 1, 0, 1, 0, 0]]
    assert batch["weights"].tolist() == [[1, 1, 1, 1, 1, 1]]


def test_the_rows_are_not_changed() -> None:
    rows = np.full((2, 5), EOT, np.uint16)
    batch = pack(rows, EOT, np.array([0, 2]))
    batch["tokens"][:] = 0
    assert (rows == EOT).all()
