#!/usr/bin/env python3
"""The column: which file of server/src imports which, read from the code.

    python3 server/column.py            checks; reads only
    python3 server/column.py --fix      writes the picture into docs/architecture.md
    python3 server/column.py --imports  every import, a line each

Fails when files import each other in a circle, when an import runs up the column, when a folder has no place in it,
and when the picture in docs/architecture.md is not of this code. A path counts wherever it is written, in `use` or in
the middle of a line, and for the file that declares what it names: what a module only passes on is no import of that
module. That a file uses what the folder around it declares is no import either, as the folder's own file is made of
them. Tests do not count.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "server/src"
DOC = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- column, written by server/column.py --fix -->", "<!-- column: end -->"

# A request goes down. Each imports those that come after it.
COLUMN = "cli node config api router placement region raft command metrics telemetry storage".split()
# What all of them stand on: it imports nothing of the column.
GROUND = "settings error trail feature_level share signals panics world ids".split()


def without_comments_and_strings(text):
    token = re.compile(
        r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|\'(?:\\[^\']+|[^\'\\])\'', re.S
    )
    return token.sub(lambda match: '""' if '"' in match[0][:3] else " ", text)


def block_end(text, at):
    """Behind the item that begins at `at`: its closing brace, or its semicolon."""
    depth = 0
    for i in range(at, len(text)):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth == 0 and text[i] == "}":
                # `use a::{b};` ends with its semicolon.
                return i + 1 + text[i + 1 :].startswith(";")
        elif text[i] in ";," and depth == 0:
            return i + 1
    return len(text)


def without_tests(text):
    while (match := re.search(r"#\[cfg\((?:test|all\(test)[^\]]*\]", text)) is not None:
        text = text[: match.start()] + text[block_end(text, match.end()) :]
    return text


def leaves(tree):
    """`a::{b as c, d::*}` as [(["a", "b"], "c"), (["a", "d", "*"], "*")]."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, name = tree.partition(" as ")
        parts = [part.strip() for part in path.split("::") if part.strip()]
        return [(parts, name.strip() or (parts[-1] if parts else ""))] if parts else []
    start = [part.strip() for part in tree[:brace].split("::") if part.strip()]
    inner, depth, parts, last = tree[brace + 1 : tree.rindex("}")], 0, [], 0
    for i, letter in enumerate(inner):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(inner[last:i])
            last = i + 1
    parts.append(inner[last:])
    found = []
    for part in parts:
        for path, name in leaves(part):
            path = start + path
            if path[-1] == "self":
                path, name = path[:-1], path[-2] if name == "self" else name
            found.append((path, name))
    return found


def without_inner_modules(text):
    """A module within a file is that file: what it calls `super` is the file itself."""
    for match in re.finditer(r"\bmod \w+ \{", text):
        end = block_end(text, match.start())
        inner = text[match.end() : end].replace("super::", "self::")
        text = text[: match.end()] + inner.ljust(end - match.end()) + text[end:]
    return text


class File:
    def __init__(self, path):
        self.path = path
        text = without_comments_and_strings((SOURCE / path).read_text())
        text = without_inner_modules(without_tests(text))
        self.children = set(re.findall(r"\bmod (\w+);", text))
        self.uses = []
        for visible, tree in re.findall(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", text):
            self.uses += [(bool(visible), path, name) for path, name in leaves(tree)]
        self.body = re.sub(r"\buse\s+[^;]+;", " ", text)


def load():
    """All files that are not tests, by the module they are."""
    files, todo = {}, [("lib.rs", ())]
    while todo:
        path, module = todo.pop()
        file = files[module] = File(path)
        folder = path[: -len(pathlib.PurePath(path).name)]
        if module and not path.endswith("mod.rs"):
            folder = path.removesuffix(".rs") + "/"
        for child in file.children:
            for place in (f"{folder}{child}.rs", f"{folder}{child}/mod.rs"):
                if (SOURCE / place).exists():
                    todo.append((place, (*module, child)))
    return files


def absolute(path, module, files):
    """A path as the modules see it, or None if it is of another crate."""
    if path[0] == "crate":
        return tuple(path[1:])
    if path[0] in ("super", "self"):
        here = list(module)
        for i, part in enumerate(path):
            if part == "super":
                here.pop()
            elif part != "self":
                return (*here, *path[i:])
        return tuple(here)
    return (*module, *path) if path[0] in files[module].children else None


def declares(path, files, asker, seen=()):
    """The file that declares what a path names."""
    module = path
    while module not in files:
        module = module[:-1]
    rest = path[len(module) :]
    if not rest or module in seen:
        return module
    seen = (*seen, module)
    for visible, target, name in files[module].uses:
        # What a file imports for itself its children see, too.
        if not (visible or asker[: len(module)] == module) or name not in (rest[0], "*"):
            continue
        found = absolute(target, module, files)
        if found is None:
            continue
        if name != "*":
            return declares((*found, *rest[1:]), files, asker, seen)
        if found[:-1] in files and re.search(rf"\b{rest[0]}\b", files[found[:-1]].body):
            return declares((*found[:-1], rest[0]), files, asker, seen)
    return module


def imports(files):
    """The files that each file imports."""
    graph = {}
    for module, file in files.items():
        bound, paths = {}, set()
        for visible, path, name in file.uses:
            found = absolute(path, module, files)
            if found is not None:
                bound[name] = found
                # What is only passed on is not used here.
                if not visible or re.search(rf"\b{name}\b", file.body):
                    paths.add(found)
        for path in re.findall(r"(?<![\w:])((?:\w+::)+\w+)", file.body):
            parts = path.split("::")
            if parts[0] in ("crate", "super", "self") or parts[0] in file.children:
                paths.add(absolute(parts, module, files))
            elif parts[0] in bound:
                paths.add((*bound[parts[0]], *parts[1:]))
        # A module that is named only to reach into it is not meant itself.
        meant = [p for p in paths if p not in files or not any(q != p and q[: len(p)] == p for q in paths)]
        targets = {declares(path, files, module) for path in meant}
        graph[module] = {target for target in targets if module[: len(target)] != target}
    return graph


def circles(graph):
    """Strongly connected files (Tarjan, without recursion)."""
    index, low, on, stack, found = {}, {}, set(), [], []
    for root in graph:
        if root in index:
            continue
        work = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root), on.add(root)
        while work:
            at, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target), on.add(target)
                    work.append((target, iter(graph[target])))
                    break
                if target in on:
                    low[at] = min(low[at], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[at])
                if low[at] == index[at]:
                    circle = []
                    while not circle or circle[-1] != at:
                        circle.append(stack.pop())
                        on.discard(circle[-1])
                    if len(circle) > 1:
                        found.append(circle)
    return found


def name(module):
    return "/".join(module) or "lib"


def room(module):
    return module[0] if module else "lib"


def picture(graph):
    """A line for each folder, with a mark for each that it imports: none is left of the diagonal."""
    used = {(room(file), room(target)) for file, targets in graph.items() for target in targets}
    lines = [f"{'':16}" + " ".join(f"{number:2}" for number in range(1, len(COLUMN) + 1)) + "  ground"]
    for number, at in enumerate(COLUMN):
        marks = [" \u25a0" if to == at else " \u25cf" if (at, to) in used else " \u00b7" for to in COLUMN]
        marks[:number] = ["  "] * number
        ground = " ".join(to for to in GROUND if (at, to) in used)
        lines.append(f"{number + 1:2} {at:12} " + " ".join(marks) + f"  {ground}".rstrip())
    return "\n".join(lines)


def main():
    files = load()
    graph = imports(files)
    if "--imports" in sys.argv:
        for file in sorted(graph):
            print("\n".join(f"{name(file)} -> {name(target)}" for target in sorted(graph[file])))
        return 0
    mistakes = []
    for circle in circles(graph):
        mistakes.append("these import each other in a circle:")
        mistakes += [f"    {name(a)} -> {name(b)}" for a in sorted(circle) for b in sorted(graph[a] & set(circle))]
    order = [*COLUMN, *GROUND]
    for file in sorted(graph):
        if file and room(file) not in order:
            mistakes.append(f"{name(file)} has no place in the column: give its folder one in COLUMN or GROUND")
            continue
        for target in sorted(graph[file]):
            if file and target and room(target) in order and order.index(room(target)) < order.index(room(file)):
                mistakes.append(f"{name(file)} imports {name(target)}, which stands above it")
    text = DOC.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n\n```text\n{picture(graph)}\n```\n\n{END}{after}"
    if "--fix" in sys.argv:
        DOC.write_text(wanted)
    elif text != wanted:
        mistakes.append("docs/architecture.md shows another column than the code: run 'python3 server/column.py --fix'")
    print("\n".join(mistakes) or f"the column holds: {len(files)} files, no circle, nothing imported from above")
    return bool(mistakes)


if __name__ == "__main__":
    sys.exit(main())
