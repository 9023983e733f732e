"""Each page is followed from its first block to its last, as it stands, on a host of the test's own."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.host import can_make_hosts, commands
from tests.docs.pages import pages, read_steps, steps
from tests.docs.reader import Reader, programs, takes_long
from tests.support.programs import needs

PAGES = [
    pytest.param(page, marks=[pytest.mark.slow] if takes_long(steps(page)) else []) for page in pages() if steps(page)
]


@pytest.mark.skipif(not can_make_hosts(), reason="needs root on a Linux that lets it make namespaces")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_works_as_it_stands(page: str) -> None:
    found = steps(page)
    with tempfile.TemporaryDirectory(prefix="rh-") as directory, ExitStack() as stack:
        for program in programs(found):
            needs(program)
        reader = Reader(Path(directory), stack, found)
        for step in found:
            reader.follow(step)


def test_few_blocks_cannot_be_run() -> None:
    # Six of docs/kubernetes.md need a cluster of Kubernetes or helm; CI checks the files that they apply.
    left_out = [step for page in pages() for step in steps(page) if step.kind == "not run"]
    assert len(left_out) <= 7 + 6, "\n".join(map(str, left_out))


PAGE = """a

```sh
one
```

<!-- file: x.toml -->
```toml
y = 1
```

<!-- open: http://a/ -->
- b:

  ```js
  c

  d
  ```
"""


def test_the_steps_of_a_page() -> None:
    found = [(step.line, step.language, step.text, step.kind, step.said) for step in read_steps("p.md", PAGE)]
    assert found == [
        (3, "sh", "one\n", "", ""),
        (8, "toml", "y = 1\n", "file", "x.toml"),
        (12, "", "", "open", "http://a/"),
        (15, "js", "c\n\nd\n", "", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- not run: a reason -->\n",
        "<!-- file: a -->\nwords between\n```sh\n```\n",
        "<!-- file: a -->\n<!-- file: b -->\n```sh\n```\n",
    ],
)
def test_a_comment_without_a_block_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="has no block"):
        read_steps("p.md", text)


def test_the_commands_of_a_block() -> None:
    block = """# a comment
A=1 one \\
  two    # another

three() { four
  five; }
cat > six <<'END'
seven

END
echo 'eight
nine'
"""
    assert commands(block) == [
        "A=1 one \\\n  two    # another",
        "three() { four\n  five; }",
        "cat > six <<'END'\nseven\n\nEND",
        "echo 'eight\nnine'",
    ]
    with pytest.raises(ValueError, match="not a whole command"):
        commands("echo 'one\n")
