import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {i + 1}" for i in range(len(BLOCKS))])
def test_python_in_the_readme_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: the first thing that a reader copies would fail.
    exec(compile(block, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) < 10


def test_images_in_the_readme_exist() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text()):
        assert (README.parent / path).is_file(), path
