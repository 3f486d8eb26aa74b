"""Show examples in docstrings as code: the documentation's parser knows them as "Examples:"."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads "Example:" as the section that holds interactive sessions."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
