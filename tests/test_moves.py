"""A call goes through few files, and moves seldom from one to another."""

from count_moves import moves_of_update


def test_an_update_moves_little_between_files():
    first, again = moves_of_update(), moves_of_update(again=True)
    assert first.moves <= 66
    assert len(first.files) <= 16
    assert again.moves <= 42
    assert len(again.files) <= 13
