"""The flags of the command."""

import pytest

from dip_jax.cli.flags import GROUPS, all_flags, parse_flags
from dip_jax.errors import InputError


def test_images_may_stand_before_between_and_after_flags():
    flags, images = parse_flags(["a.png", "--seed=3", "b.png", "--input", "c.png", "d.png"])
    assert images == ["a.png", "b.png", "d.png"]
    assert (flags.seed, flags.input) == (3, ["c.png"])


def test_arguments_after_two_dashes_are_images():
    assert parse_flags(["--", "--seed=3"])[1] == ["--seed=3"]


def test_a_call_does_not_see_the_flags_of_an_earlier_one():
    assert parse_flags(["--resume", "--set=a=1"])[0].set == ["a=1"]
    flags, _ = parse_flags([])
    assert (flags.resume, flags.set, flags.keep_compiled) == (False, [], True)


@pytest.mark.parametrize(
    ("arguments", "value", "rest"),
    [
        ([], None, []),
        (["--list_settings"], "true", []),
        (["--list_settings=net"], "net", []),
        (["--list_settings", "net"], "true", ["net"]),
    ],
)
def test_a_listing_needs_no_value(arguments, value, rest):
    flags, others = parse_flags(arguments)
    assert (flags.list_settings, others) == (value, rest)


def test_a_flag_without_its_value_is_named():
    with pytest.raises(InputError, match="output"):
        parse_flags(["--output"])


def test_every_flag_is_in_one_group():
    names = [flag.name for flag in all_flags()]
    assert len(set(names)) == len(names) == sum(map(len, GROUPS.values()))
