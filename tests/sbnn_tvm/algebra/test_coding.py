"""Codings of binary weights: round trips, sizes, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbnn_tvm.algebra.coding import (
    Bitmap,
    Codebook,
    Gaps,
    Rice,
    SparseArray,
    decode_gaps,
    encode_gaps,
    pack_fields,
    smallest,
    unpack_fields,
)


def random_bits(rows: int, columns: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns)) < density


@given(st.sets(st.integers(0, 3000)))
def test_gaps_of_positions(positions: set[int]) -> None:
    sorted_positions = np.array(sorted(positions), np.int64)
    np.testing.assert_array_equal(decode_gaps(encode_gaps(sorted_positions)), sorted_positions)


@given(st.integers(1, 20), st.integers(0, 50), st.randoms(use_true_random=False))
def test_fields(width: int, count: int, random) -> None:
    values = np.array([random.randrange(1 << width) for _ in range(count)], np.int64)
    np.testing.assert_array_equal(unpack_fields(pack_fields(values, width), width, count), values)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 7, 8, 9, 63, 64, 65, 600]),
    density=st.sampled_from([0.0, 0.003, 0.05, 0.3, 0.5, 0.95, 1.0]),
    mixed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_round_trips(rows: int, columns: int, density: float, mixed: bool, seed: int) -> None:
    bits = random_bits(rows, columns, density, seed)
    if mixed:
        bits[::2] = ~bits[::2]
    for coding in (Bitmap.encode(bits), Gaps.encode(bits), Rice.encode(bits), smallest(bits)):
        assert coding.shape == bits.shape
        np.testing.assert_array_equal(coding.decode(), bits)
        assert coding.nbytes >= smallest(bits).nbytes


@given(rows=st.integers(1, 9), kernels=st.integers(1, 40), size=st.integers(1, 70), seed=st.integers(0, 1000))
def test_codebooks(rows: int, kernels: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((size, 9)) < 0.5
    bits = table[rng.integers(0, size, (rows, kernels))].reshape(rows, -1)
    coding = Codebook.encode(bits, 9)
    np.testing.assert_array_equal(coding.decode(), bits)
    assert len(coding.patterns) <= size and 2**coding.index_bits >= len(coding.patterns)
    np.testing.assert_array_equal(smallest(bits, 9).decode(), bits)


def test_sub_bit_weights_take_t_ninths_of_a_bit(rng: np.random.Generator) -> None:
    table = ((np.arange(16)[:, None] * 37 % 512) >> np.arange(9) & 1).astype(bool)
    bits = table[rng.integers(0, 16, (64, 64))].reshape(64, -1)
    coding = smallest(bits, 9)
    assert isinstance(coding, Codebook)
    assert coding.indices.nbytes * 8 / bits.size == 4 / 9 and coding.patterns.nbytes == 32


@pytest.mark.parametrize(("density", "name"), [(0.5, "bitmap"), (0.25, "rice"), (0.05, "rice"), (0.95, "rice")])
def test_the_smallest_coding_follows_the_density(density: float, name: str) -> None:
    assert smallest(random_bits(64, 576, density), 9).name == name


@pytest.mark.parametrize("density", [0.3, 0.2, 0.1, 0.05, 0.02, 0.01])
def test_rice_codes_stay_close_to_the_entropy(density: float) -> None:
    bits = random_bits(256, 1152, density)
    share = bits.mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert 8 * Rice.encode(bits).nbytes / bits.size < 1.04 * entropy


def test_rows_of_either_majority_are_coded_as_small() -> None:
    bits = random_bits(256, 1152, 0.05)
    flipped = bits ^ (np.arange(256) % 2 == 1)[:, None]
    assert Rice.encode(flipped).nbytes <= Rice.encode(bits).nbytes + 256


@pytest.mark.parametrize(
    ("coding", "message"),
    [
        (Bitmap((4, 9), np.zeros((4, 1), np.uint8)), r"4 x 9 bits is uint8 \[4, 2\], but got uint8 \[4, 1\]"),
        (Gaps((2, 4), np.array([1, 255], np.uint8), np.zeros(1, np.uint8)), "the gaps are truncated"),
        (Gaps((2, 4), np.array([1, 6], np.uint8), np.zeros(1, np.uint8)), "position 8 lies beyond the 2 x 4 bits"),
        (Gaps((2, 4), np.array([1, 5], np.uint8), np.zeros(3, np.uint8)), r"uint8 \[1\] or \[2\] of 0 and 1"),
        (Gaps((2, 4), np.array([1, 5], np.uint8), np.full(1, 2, np.uint8)), "with other values"),
        (
            Rice((2, 400), np.array([255], np.uint8), np.zeros(2, np.uint8), 3, np.zeros(1, np.uint8)),
            "8 fields of 3 bits take 3 bytes, but there are only 2",
        ),
        (
            Codebook((1, 18), np.array([0b1101], np.uint8), np.zeros((3, 2), np.uint8), 2, 9),
            "index 3 is beyond the codebook of 3 kernels",
        ),
        (
            Codebook((1, 18), np.zeros(1, np.uint8), np.zeros((3, 1), np.uint8), 2, 9),
            r"in kernels of 9 is uint8 \[size, 2\], but got uint8 \[3, 1\]",
        ),
        (SparseArray((2, 2), np.array([4], np.uint8), np.ones(1, np.float32)), "position 4 lies beyond the 4 numbers"),
        (
            SparseArray((2, 2), np.array([3], np.uint8), np.ones(2, np.float32)),
            r"are float32 \[1\], but got float32 \[2\]",
        ),
    ],
)
def test_damaged_arrays_are_refused(coding, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coding.decode()


def test_positions_must_ascend() -> None:
    with pytest.raises(ValueError, match="positions must ascend from 0 on"):
        encode_gaps(np.array([3, 3]))


def test_kernels_must_fill_the_rows() -> None:
    with pytest.raises(ValueError, match="rows of 10 bits are no sequence of kernels of 9 bits"):
        Codebook.encode(np.zeros((2, 10), bool), 9)


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_sparse_arrays(density: float, rng: np.random.Generator) -> None:
    array = np.where(rng.random((5, 7, 3, 3)) < density, rng.standard_normal((5, 7, 3, 3)), 0).astype(np.float32)
    array[0, 0, 0, 0] = -0.0
    decoded = SparseArray.encode(array).decode()
    np.testing.assert_array_equal(decoded.view(np.uint32), array.view(np.uint32))
