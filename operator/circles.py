#!/usr/bin/env python3
"""Fails when files of operator/src import each other in a circle. Reads only.

What is an import server/column.py knows; the operator has no column, as its folders are not the way of a request.
"""

import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent


def main():
    sys.dont_write_bytecode = True
    found = importlib.util.spec_from_file_location("column", ROOT / "server/column.py")
    column = importlib.util.module_from_spec(found)
    found.loader.exec_module(column)
    column.SOURCE = ROOT / "operator/src"
    files = column.load()
    graph = column.imports(files)
    circles = column.circles(graph)
    for circle in circles:
        print("these import each other in a circle:")
        for a in sorted(circle):
            for b in sorted(graph[a] & set(circle)):
                print(f"    {column.name(a)} -> {column.name(b)}")
    if not circles:
        print(f"no circle in the operator: {len(files)} files")
    return bool(circles)


if __name__ == "__main__":
    sys.exit(main())
