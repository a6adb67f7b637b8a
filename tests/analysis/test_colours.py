"""Colours of figures can be told from their background, and from each other by colour-blind readers."""

import itertools

import numpy as np
import pytest

from analysis.figures.colours import (
    DARK,
    DARK_ORDERED,
    DARK_PALETTE,
    GREEN,
    GREY,
    INK,
    ORDERED,
    PALETTE,
    RED,
    colours,
    ordered,
    text_on,
)

DARK_PAGE = "#0f1215"
SIGHT = {  # Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB
    "typical": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
TO_LMS += [[0.0883024619, 0.2817188376, 0.6299787005]]
TO_LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
TO_LAB += [[0.0259040371, 0.7827717662, -0.8086757660]]


def linear(colour):
    """Linear RGB of sRGB, as WCAG 2 defines it."""
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The contrast ratio of WCAG 2."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb):
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_LMS) @ np.clip(rgb, 0, 1))


def distance(one, other, sight):
    """In OKLab, as someone with this sight sees them."""
    return float(np.linalg.norm(oklab(SIGHT[sight] @ linear(one)) - oklab(SIGHT[sight] @ linear(other))))


def test_black_on_white_has_the_highest_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_every_colour_has_a_contrast_of_3_to_its_page():
    for colour in (INK, GREY, RED, GREEN, *PALETTE, *ORDERED):
        assert contrast(colour, "#ffffff") >= 3, colour
        assert contrast(DARK[colour], DARK_PAGE) >= 3, colour


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("palette", [PALETTE, DARK_PALETTE])
def test_the_colours_of_names_stay_apart_for_every_sight(palette, sight):
    """The eight of Okabe and Ito have at least 0.076."""
    assert min(distance(a, b, sight) for a, b in itertools.combinations(palette, 2)) >= 0.17


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("scale", [ORDERED, DARK_ORDERED])
def test_the_colours_of_numbers_get_lighter_for_every_sight(scale, sight):
    lightness = [oklab(SIGHT[sight] @ linear(colour))[0] for colour in scale]
    assert lightness == sorted(lightness)


def test_the_end_of_the_scale_has_the_colours_of_the_lowest_and_the_highest():
    assert (ordered(0.0), ordered(1.0), ordered(-1.0)) == (ORDERED[0], ORDERED[-1], ORDERED[0])


def test_names_take_the_colours_in_order_and_after_six_again():
    assert list(colours("abcabcdefg").values()) == [*PALETTE, PALETTE[0]]


def test_text_on_a_colour_has_a_contrast_of_4_5():
    for colour in (*ORDERED, *DARK_ORDERED):
        assert contrast(text_on(colour), colour) >= 4.5, colour
