"""Print a benchmark's lines as they come; with --write, put them into README.md too."""

import re
import sys
from pathlib import Path

README = Path(__file__).with_name("README.md")


def show(name, lines):
    """Print `lines`; with --write, replace what stands between the marks of `name` by them."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    if "--write" in sys.argv:
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, body = README.read_text(), begin + "\n".join(kept) + end
        README.write_text(re.sub(pattern, lambda _: body, text, count=1, flags=re.DOTALL))
