#!/usr/bin/env python3
"""Writes the table of values in helm/flotilla/README.md from values.yaml; --check only compares.

The comment above a key is its meaning. Of YAML it understands what that file uses: nested maps, and values
that fit on their line.
"""

import pathlib
import re
import sys

CHART = pathlib.Path(__file__).parent / "flotilla"
BEGIN, END = "<!-- values: from values.yaml, by `make manifests` -->\n", "<!-- /values -->\n"


def rows(text):
    path, notes = [], []
    for line in text.splitlines():
        note = re.match(r" *# ?(.*)", line)
        key = re.match(r"( *)([A-Za-z_.]+):(?: (.*))?$", line)
        if note:
            notes.append(note[1])
        elif key:
            depth = len(key[1]) // 2
            path[depth:] = [key[2]]
            yield ".".join(path), key[3], " ".join(notes).replace("|", "\\|")
            notes = []
        elif not line.strip():
            notes = []  # a comment that stands alone is about no key
        else:
            sys.exit(f"values.yaml: cannot read {line!r}")


def table(text):
    lines = ["| value | default | meaning |\n", "|---|---|---|\n"]
    for name, value, note in rows(text):
        if not value and not note:
            continue
        default = f"`{value}`" if value else ""
        lines.append(f"| `{name}` | {default} | {note} |\n")
    return "".join(lines)


def main():
    page = CHART / "README.md"
    old = page.read_text()
    head, rest = old.split(BEGIN)
    tail = rest.split(END)[1]
    new = head + BEGIN + table((CHART / "values.yaml").read_text()) + END + tail
    if new == old:
        return
    if "--check" in sys.argv:
        sys.exit("helm/flotilla/README.md is not current: run `make manifests`")
    page.write_text(new)


main()
