"""Turn $$ formulas $$ of a page into MathML, which browsers draw without a script."""

import re
from typing import Any

from latex2mathml.converter import convert


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Convert a page before it becomes HTML; MkDocs calls this."""
    return re.sub(
        r"^\$\$(.+?)\$\$$",
        lambda formula: convert(formula[1].strip(), display="block"),
        markdown,
        flags=re.MULTILINE | re.DOTALL,
    )
