"""The page on the contract names every code that the check knows."""

from pathlib import Path

import pytest

from pyro_lvm.checking import CODES

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside the tests")
    return PAGE.read_text()


def test_the_page_names_every_code_and_what_it_means(page: str) -> None:
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page
