"""Which numbers models compute in, on a GPU and on several CPUs."""

import pytest

from acestep.memory.number_formats import NumberFormats

TOY, NANO, PUBLISHED = 64, 320, 1024


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2", ("float32", "float32", "float32")),
        ("avx512_bf16", ("float32", "float32", "bfloat16")),
        ("amx_bf16", ("float32", "bfloat16", "bfloat16")),
        ("avx512_bf16 amx_bf16", ("float32", "bfloat16", "bfloat16")),
    ],
)
def test_auto_takes_bfloat16_where_it_is_faster(flags: str, expected: tuple[str, ...]) -> None:
    formats = NumberFormats("auto", frozenset(flags.split()))
    assert tuple(formats.of(width) for width in (TOY, NANO, PUBLISHED)) == expected
    assert (formats.of_vae, formats.bytes_of_vae) == ("float32", 4)


def test_gpus_take_bfloat16() -> None:
    formats = NumberFormats()
    assert (formats.of(TOY), formats.of(PUBLISHED), formats.of_vae) == ("bfloat16", "bfloat16", "bfloat16")
    assert (formats.bytes_of(), formats.bytes_of_vae) == (2, 2)


def test_a_wish_holds_whatever_there_is() -> None:
    assert NumberFormats("bfloat16", frozenset()).of(TOY) == "bfloat16"
    assert NumberFormats("float32", frozenset({"amx_bf16"})).of(PUBLISHED) == "float32"
    assert NumberFormats("float16").of_vae == "float16"
    assert NumberFormats("float32").bytes_of_vae == 4
