"""Float instructions, rounded once to nearest even, against exact rational arithmetic."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, elementwise, program
from tests.ptx.program import Program, launch

type Array = np.ndarray[Any, Any]

_THREADS = 512
_F32 = np.finfo(np.float32)


def random_floats(rng: np.random.Generator) -> Array:
    """Any finite bits, near neighbours of 1, whole numbers, subnormals and zeros."""
    bits = rng.integers(0, 2**32, _THREADS, np.uint32).view(np.float32)
    anything = np.where(np.isfinite(bits), bits, np.float32(1))
    near_one = (1 + rng.integers(-8, 8, _THREADS) * 2.0**-23).astype(np.float32)
    whole = rng.integers(-(2**24), 2**24, _THREADS).astype(np.float32)
    tiny = rng.integers(0, 2**24, _THREADS, np.uint32).view(np.float32)
    return np.choose(rng.integers(0, 4, _THREADS), [anything, near_one, whole, tiny])


def rounded(exact: Fraction) -> np.float32:
    """The nearest float32, the even one of two; infinite from half a step past the largest on."""
    if exact == 0:
        return np.float32(0)
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    steps = round(magnitude / unit)  # Python's rounds halves to even
    value = float(steps * unit) if steps * unit < Fraction(2) ** 128 else float("inf")
    return np.float32(value if exact > 0 else -value)


def execute(instruction: str, operands: list[Array]) -> Array:
    out = np.zeros(_THREADS, np.float32)
    text = elementwise(instruction, "f32", ["f32"] * len(operands))
    launch(program(text), (1,), [out, *operands], threads=_THREADS)
    return out


EXACT: dict[str, Callable[..., Fraction]] = {
    "add.f32 d, a, b;": lambda a, b: a + b,
    "add.rn.f32 d, a, b;": lambda a, b: a + b,
    "sub.f32 d, a, b;": lambda a, b: a - b,
    "mul.f32 d, a, b;": lambda a, b: a * b,
    "fma.rn.f32 d, a, b, c;": lambda a, b, c: a * b + c,
    "fma.rn.f32 d, a, b, 0f3F800001;": lambda a, b: a * b + Fraction(1 + 2**-23),
    "fma.rn.f32 d, a, b, 0f00000001;": lambda a, b: a * b + Fraction(2) ** -149,
}


@pytest.mark.parametrize("instruction", EXACT)
def test_rounds_once(instruction: str) -> None:
    exact = EXACT[instruction]
    rng = np.random.default_rng(len(instruction))
    operands = [random_floats(rng) for _ in range(exact.__code__.co_argcount)]
    out = execute(instruction, operands)
    expected = [
        rounded(exact(*(Fraction(float(each)) for each in row)))
        for row in zip(*operands, strict=True)
    ]
    # Zeros of either sign are equal here; their signs are tested below.
    np.testing.assert_array_equal(out, np.array(expected, np.float32))


@pytest.mark.parametrize(("more", "beyond"), [(1, 1), (3, -1)])
def test_fma_rounds_once_where_float64_would_round_twice(more: int, beyond: int) -> None:
    """A product halfway between two floats, and a sum beside it by less than float64 can hold."""
    numbers = [1 + more * 2**-12, 1 + 2**-12, beyond * 2**-60]
    for sign in (1, -1):
        a, b, c = sign * numbers[0], numbers[1], sign * numbers[2]
        out = execute(
            "fma.rn.f32 d, a, b, c;", [np.full(_THREADS, x, np.float32) for x in (a, b, c)]
        )
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        assert rounded(exact) != np.float32(float(exact))
        np.testing.assert_array_equal(out, rounded(exact))


def test_division_is_the_nearest() -> None:
    rng = np.random.default_rng(0)
    a, b = random_floats(rng), random_floats(rng)
    b[b == 0] = 3
    out = execute("div.rn.f32 d, a, b;", [a, b])
    for x, y, quotient in zip(a, b, out, strict=True):
        assert quotient == rounded(Fraction(float(x)) / Fraction(float(y)))


def test_zeros_have_the_signs_of_ieee_and_extrema_order_them() -> None:
    zeros = np.array([0.0, 0.0, -0.0, -0.0], np.float32).repeat(_THREADS // 4)
    others = np.tile(np.array([0.0, -0.0], np.float32), _THREADS // 2)
    for instruction, negative in {
        "add.f32 d, a, b;": np.signbit(zeros) & np.signbit(others),
        "mul.f32 d, a, b;": np.signbit(zeros) ^ np.signbit(others),
        "min.f32 d, a, b;": np.signbit(zeros) | np.signbit(others),
        "max.f32 d, a, b;": np.signbit(zeros) & np.signbit(others),
    }.items():
        out = execute(instruction, [zeros, others])
        np.testing.assert_array_equal(np.signbit(out), negative, instruction)
        np.testing.assert_array_equal(out, 0)


def test_extrema_prefer_numbers_to_nan() -> None:
    a, b = np.full(_THREADS, np.nan, np.float32), np.arange(_THREADS, dtype=np.float32)
    np.testing.assert_array_equal(execute("min.f32 d, a, b;", [a, b]), b)
    np.testing.assert_array_equal(execute("max.f32 d, b, a;", [a, b]), b)
    assert np.isnan(execute("max.NaN.f32 d, a, b;", [a, b])).all()


def test_ftz_flushes_what_goes_in_and_what_comes_out() -> None:
    smallest = np.full(_THREADS, _F32.smallest_normal, np.float32)
    half = np.full(_THREADS, 0.5, np.float32)
    subnormal = -smallest / 2
    assert (execute("mul.f32 d, a, b;", [smallest, half]) == smallest / 2).all()
    assert (execute("mul.ftz.f32 d, a, b;", [smallest, half]) == 0).all()
    flushed = execute("add.ftz.f32 d, a, b;", [subnormal, subnormal])
    assert (flushed == 0).all()
    assert np.signbit(flushed).all()


COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": lambda a, b: ~(a == b),
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_with_nan(name: str) -> None:
    some = np.array([-1, -0.0, 0, 1, np.inf, -np.inf, np.nan], np.float32)
    a, b = (each.ravel() for each in np.meshgrid(some, some))
    a, b = np.resize(a, _THREADS), np.resize(b, _THREADS)
    out = np.zeros(_THREADS, np.uint32)
    text = elementwise(f"setp.{name}.f32 p, a, b;", "pred", ["f32", "f32"])
    launch(program(text), (1,), [out, a, b], threads=_THREADS)
    np.testing.assert_array_equal(out, COMPARISONS[name](a, b))


WHOLE = {"rni": round, "rzi": int, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("target", ["s32", "u32", "s8", "u8", "s16", "u64", "s64"])
@pytest.mark.parametrize("rounding", WHOLE)
def test_to_integers_saturates(target: str, rounding: str) -> None:
    rng = np.random.default_rng(0)
    a = np.concatenate(
        [
            rng.integers(-600, 600, _THREADS // 2) / np.float32(2),
            random_floats(rng)[: _THREADS // 2],
        ]
    ).astype(np.float32)
    bits = int(target[1:])
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
    )
    held = f"{target[0]}{max(16, bits)}"
    out = np.zeros(_THREADS, f"{'i' if target[0] == 's' else 'u'}{max(16, bits) // 8}")
    text = elementwise(f"cvt.{rounding}.{target}.f32 d, a;", held, ["f32"])
    launch(program(text), (1,), [out, a], threads=_THREADS)
    expected = [min(max(int(WHOLE[rounding](float(each))), low), high) for each in a]
    assert out.tolist() == expected


@pytest.mark.parametrize("target", ["s32", "u32", "u16", "s64", "u64"])
def test_nan_becomes_zero_but_in_64_bits_half_the_range(target: str) -> None:
    out = np.ones(_THREADS, f"u{int(target[1:]) // 8}")
    text = elementwise(f"cvt.rzi.{target}.f32 d, a;", target, ["f32"])
    launch(program(text), (1,), [out, np.full(_THREADS, np.nan, np.float32)], threads=_THREADS)
    assert (out == (2**63 if target.endswith("64") else 0)).all()


@pytest.mark.parametrize("source", ["s32", "u32", "s8", "u8", "s64", "u64"])
def test_from_integers_rounds_to_nearest(source: str) -> None:
    bits = int(source[1:])
    dtype = np.dtype(f"{'i' if source[0] == 's' else 'u'}{bits // 8}")
    limits = np.iinfo(dtype)
    a = np.random.default_rng(0).integers(limits.min, limits.max, _THREADS, dtype, endpoint=True)
    a[:2] = limits.min, limits.max
    out = np.zeros(_THREADS, np.float32)
    launch(
        program(elementwise(f"cvt.rn.f32.{source} d, a;", "f32", [source])),
        (1,),
        [out, a],
        threads=_THREADS,
    )
    np.testing.assert_array_equal(out, [rounded(Fraction(int(each))) for each in a])


def test_half_precision_and_back() -> None:
    a = np.random.default_rng(0).normal(size=_THREADS).astype(np.float32)
    out = np.zeros(_THREADS, np.float32)
    text = elementwise(".reg .b16 h; cvt.rn.f16.f32 h, a; cvt.f32.f16 d, h;", "f32", ["f32"])
    launch(program(text), (1,), [out, a], threads=_THREADS)
    np.testing.assert_array_equal(out, a.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    "instruction",
    [
        "div.full.f32 d, a, a;",
        "div.approx.f32 d, a, a;",
        "ex2.approx.f32 d, a;",
        "rsqrt.approx.f32 d, a;",
    ],
)
def test_approximations_are_refused(instruction: str) -> None:
    with pytest.raises(PtxError, match=r"line \d+.*(\.rn|unknown opcode)"):
        Program.parse(elementwise(instruction, "f32", ["f32"]))


def test_the_texts_are_ptx() -> None:
    counts = {text: function.__code__.co_argcount for text, function in EXACT.items()}
    counts |= {f"{name}.f32 d, a, b;": 2 for name in ("min", "max", "max.NaN", "div.rn")}
    counts |= {"mul.ftz.f32 d, a, b;": 2, "add.ftz.f32 d, a, b;": 2}
    texts = [elementwise(text, "f32", ["f32"] * count) for text, count in counts.items()]
    texts += [
        elementwise(f"setp.{name}.f32 p, a, b;", "pred", ["f32", "f32"]) for name in COMPARISONS
    ]
    texts += [elementwise(f"cvt.{way}.u8.f32 d, a;", "u16", ["f32"]) for way in WHOLE]
    texts += [elementwise(f"cvt.rn.f32.{k} d, a;", "f32", [k]) for k in ("s8", "u32", "s64")]
    assemble(texts)
