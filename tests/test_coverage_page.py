"""The page of the documentation on coverage is what the cases give."""

import pytest
from coverage_page import PAGE, page


@pytest.mark.filterwarnings("ignore:The neurons cover")
def test_the_committed_page_is_up_to_date(x64):
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make pages` and commit docs/coverage.md"
