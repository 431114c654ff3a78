"""Each flag, argument, column, key and figure is shown by a quick test, or listed as still unclaimed."""

import inventory


def test_each_flag_and_argument_is_claimed_or_listed():
    there = inventory.flag_facts() | inventory.call_facts()
    missing = there - inventory.claims().keys() - inventory.unclaimed()
    assert not missing, "no test shows these, see tests/fixtures/inventory.py:\n" + "\n".join(inventory.joined(missing))


def test_claims_name_what_is_there():
    wrong = {fact: tests for fact, tests in inventory.claims().items() if not inventory.exists(fact)}
    assert not wrong


def test_the_list_of_the_unclaimed_shrinks():
    """A listed fact that has been claimed, or has gone, leaves the list."""
    listed = inventory.unclaimed()
    assert not listed & inventory.claims().keys()
    assert not [fact for fact in listed if not inventory.exists(fact)]
    assert inventory.UNCLAIMED.read_text().splitlines() == inventory.joined(listed)
