import pytest
import torch

from acestep.domain.song import Window
from acestep.synthesizer.windows import Span, join, keep_around

RATE, LENGTH = 25.0, 250  # ten seconds


def window(start: float, end: float) -> Window:
    return Window(start, end, 0.0, 10.0)


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(2.0, 4.0, (50, 100)), (1.16, 1.2, (29, 30)), (2.01, 3.99, (50, 100)), (0.0, 10.0, (0, 250))],
)
def test_a_span_has_every_frame_that_the_window_touches(start, end, frames):
    span = Span.of(window(start, end), RATE, LENGTH, fade=0)
    assert (span.start, span.stop) == frames
    assert span.mask(LENGTH).nonzero().flatten().tolist() == list(range(*frames))


def test_edges_fade_inside_the_window():
    weights = Span.of(window(2.0, 4.0), RATE, LENGTH, fade=10).weights(LENGTH)
    assert (weights[:50] == 0).all() and (weights[100:] == 0).all()
    assert (weights[60:90] == 1).all()
    rise = weights[50:60]
    assert (rise.diff() > 0).all() and rise[0] > 0 and rise[-1] < 1
    assert torch.equal(weights[90:100], rise.flip(0))


def test_a_short_window_fades_up_to_its_middle():
    span = Span.of(window(2.0, 2.2), RATE, LENGTH, fade=10)
    assert (span.fade_in, span.fade_out) == (2, 2)


@pytest.mark.parametrize(
    ("edges", "source", "fades"),
    [
        ((0.0, 4.0), (0.0, 10.0), (0, 10)),  # nothing is kept before the beginning
        ((6.0, 10.0), (0.0, 10.0), (10, 0)),  # or after the end
        ((8.0, 10.0), (0.0, 8.0), (0, 0)),  # the song goes on where its source ends: no source to fade from
        ((7.8, 10.0), (0.0, 8.0), (5, 0)),  # unless some of it is replaced
        ((0.0, 2.0), (2.0, 10.0), (0, 0)),  # the same in front
        ((0.0, 2.2), (2.0, 10.0), (0, 5)),
    ],
)
def test_fades_need_source_on_both_sides(edges, source, fades):
    span = Span.of(Window(*edges, *source), RATE, LENGTH, fade=10)
    assert (span.fade_in, span.fade_out) == fades


def test_joining_keeps_what_is_outside_to_the_bit():
    new, kept = torch.randn(2, LENGTH, 3), torch.randn(2, LENGTH, 3)
    joined = join(new, kept, Span.of(window(2.0, 4.0), RATE, LENGTH, fade=10), dim=1)
    assert torch.equal(joined[:, :50], kept[:, :50]) and torch.equal(joined[:, 100:], kept[:, 100:])
    assert torch.equal(joined[:, 60:90], new[:, 60:90])
    torch.testing.assert_close(joined[:, 50], kept[:, 50] + (new - kept)[:, 50] / 11)


def test_nan_inside_the_span_does_not_reach_what_is_kept():
    new, kept = torch.full((1, LENGTH), torch.nan), torch.ones(1, LENGTH)
    joined = join(new, kept, Span.of(window(2.0, 4.0), RATE, LENGTH, fade=0), dim=1)
    assert (joined[:, :50] == 1).all()


@pytest.mark.parametrize("fade", [0, 10])
@pytest.mark.parametrize("span", [(2.0, 4.0), (0.0, 2.0), (3.0, 6.0)])
@pytest.mark.parametrize("short", [0, 30, 55, 110, LENGTH])
def test_keeping_in_place_is_joining_to_the_bit(short: int, span: tuple[float, float], fade: int):
    new, kept = torch.randn(2, LENGTH), torch.randn(2, short)
    padded = torch.nn.functional.pad(kept, (0, LENGTH - short))
    where = Span.of(window(*span), RATE, LENGTH, fade=fade)
    joined = join(new, padded, where, dim=1)
    keep_around(new, kept, where)
    assert torch.equal(new, joined)
