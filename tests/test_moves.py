"""A call goes through few files, and moves seldom from one to another."""

from count_moves import moves_of_find_neurons, moves_of_update


def test_an_update_moves_little_between_files():
    first, again = moves_of_update(), moves_of_update(again=True)
    assert first.moves <= 69
    assert len(first.files) <= 16
    assert again.moves <= 34
    assert len(again.files) <= 12


def test_finding_moves_little_between_files():
    found = moves_of_find_neurons()
    assert found.moves <= 69
    assert len(found.files) <= 20
