"""Docstrings of the project as reStructuredText.

They are plain text: `names` in backticks, paragraphs, rows of a name and its meaning, formulas and examples that stand as written.
"""

import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from sphinx.addnodes import pending_xref

from grassmann_ssl.runs import RunConfig

OWN = re.compile(r"(grassmann_ssl|theory)\.")
NAMES = re.compile(r"[`\w.*]+(, [`\w.*]+)*")
LINK = re.compile(r":py:obj:`(\w+) <[^>]*>`")
NO_VALUE = re.compile("<(?:[^<>]|<[^<>]*>)*>")
VARIABLE = re.compile(r"(?:~typing\.)?~(\w)\b")
ROW = re.compile(r"(\S.*?) {2,}(?=\S)")  # a name, and its meaning in a second column


def typeset(app, what, name, obj, options, lines):
    """Replace the lines of a docstring by reStructuredText; a handler of autodoc-process-docstring."""
    summary, *rest = "\n".join(lines).strip().split("\n")
    lines[:] = [text(summary), "", *body(textwrap.dedent("\n".join(rest)).split("\n"))]
    if what in ("class", "function", "method"):  # what is called as an argument is the argument
        own = signature(obj).parameters if callable(obj) else {}
        lines[:] = [LINK.sub(lambda link: f"``{link[1]}``" if link[1] in own else link[0], line) for line in lines]
    if what == "module" and options.members:
        lines += ["", " · ".join(f":py:obj:`{one} <{name}.{one}>`" for one in names_of(obj))]


def settings(app, what, name, obj, options, arguments, returned):
    """Settings of a run are listed below their class, each with its plain type; a handler of autodoc-process-signature.

    Elsewhere what cannot be parsed is left out: defaults that are no value, such as <factory>, and the ~ of type variables.
    """
    if what == "class" and issubclass(obj, RunConfig):
        hints = get_type_hints(obj)
        for one in obj.__mro__:
            if "__annotations__" in vars(one):
                one.__annotations__ = {key: hints.get(key, hint) for key, hint in one.__annotations__.items()}
        return "", None
    return arguments and VARIABLE.sub(r"\1", NO_VALUE.sub("...", arguments)), returned


def signature(obj):
    """Its signature; of what has none, that of a function without arguments."""
    try:
        return inspect.signature(obj)
    except (TypeError, ValueError):
        return inspect.Signature()


def names_of(module):
    """The public classes and functions of a module: those it lists, or else defines."""
    listed = getattr(module, "__all__", None)
    return [
        one
        for one, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and (one in listed if listed else value.__module__ == module.__name__ and not one.startswith("_"))
    ]


def unlink(app, doctree):
    """Take off the links to names of other libraries, which nothing here can resolve; a handler of doctree-read."""
    for node in [*doctree.findall(pending_xref)]:
        if node["refdomain"] == "py" and node["reftype"] != "obj" and not OWN.match(node["reftarget"]):
            node.replace_self(node.children)


def body(lines):
    """Paragraphs, rows, formulas and examples, block by block."""
    out, i = [], 0
    while i < len(lines):
        block = [lines[i]]
        kind = kind_of(lines, i)
        while i + len(block) < len(lines) and belongs(lines, i + len(block), kind, block):
            block.append(lines[i + len(block)])
        i += len(block)
        out += [*KINDS[kind](block), ""]
    return out


def kind_of(lines, i):
    """What begins at this line."""
    line = lines[i]
    if not line.strip():
        return "nothing"
    if line.startswith(">>>"):
        return "example"
    if line.startswith(" "):
        return "example" if line.lstrip().startswith(">>>") else "verbatim"
    if re.match(r"[-*] ", line):
        return "item"
    if ROW.match(line):
        column = ROW.match(line).end()
        following = lines[i + 1] if i + 1 < len(lines) else ""
        second = ROW.match(following)
        goes_on = following.startswith(" " * column) and following.strip()
        aligned = goes_on or (second and second.end() == column)
        return "rows" if aligned and NAMES.fullmatch(line[:column].strip()) else "verbatim"
    return "paragraph"


def belongs(lines, i, kind, block):
    """Whether this line goes on with the block before it."""
    line = lines[i]
    if kind == "nothing" or not line.strip():
        return kind == "verbatim" and i + 1 < len(lines) and lines[i + 1].startswith(" ") and block[0].startswith(" ")
    if kind == "rows":
        column = ROW.match(block[0]).end()
        return line.startswith(" " * column) or in_column(line, column)
    if kind in ("item", "verbatim") and line.startswith(" "):
        return True
    if kind == "example":
        return not re.match(r"\S", line) if block[0].startswith(" ") else True
    return kind_of(lines, i) == kind and kind != "item"


def in_column(line, column):
    """Whether a line is a row of this column, or its name is too long for it."""
    row = ROW.match(line)
    return bool(row) and (row.end() == column or (len(row[1]) + 2 > column and NAMES.fullmatch(row[1]) is not None))


def paragraph(block):
    """Prose."""
    return [text(" ".join(line.strip() for line in block))]


def item(block):
    """One point of a list."""
    return ["- " + text(" ".join(line.strip() for line in block)[2:])]


def rows(block):
    """Names and meanings as a list of definitions."""
    out = []
    for line in block:
        if line.startswith(" "):
            out[-1] += " " + line.strip()
        else:
            row = ROW.match(line)
            out.append(f"{name(row[1])}\n    {line[row.end() :]}")
    return [
        part
        for row in out
        for head, _, meaning in [row.partition("\n")]
        for part in (head, "    " + text(meaning.strip()))
    ]


def name(words):
    """The names of a row, as code."""
    return ", ".join(f"``{word.strip('`')}``" for word in re.split(r",\s*", words))


def verbatim(block):
    """Formulas and tables, as they are written; rows that are indented are rows."""
    block = textwrap.dedent("\n".join(block)).split("\n")
    if kind_of(block, 0) == "rows" and all(belongs(block, i, "rows", block) for i in range(len(block))):
        return rows(block)
    return [".. code-block:: text", "", *("    " + line for line in block)]


def example(block):
    """What is typed at the prompt, and what comes back."""
    return [".. code-block:: pycon", "", *textwrap.indent(textwrap.dedent("\n".join(block)), "    ").split("\n")]


def text(line):
    """A line with its `code`, linked where it is the name of something public; all else stands for itself."""
    first, *parts = re.split(r"`([^`]+)`", line)
    begins_list = re.match(r"([\w#(]{1,4}[.)]|[-+•]) ", first)
    out = ("\\" if begins_list else "") + escaped(first)
    for code, after in zip(parts[::2], parts[1::2], strict=True):
        target = PUBLIC.get(code.removesuffix("()"))
        out += rf"\ :py:obj:`{code} <{target}>`\ " if target else rf"\ ``{code}``\ "
        out += escaped(after)
    return out.strip()


def escaped(words):
    """Words without a meaning in reStructuredText."""
    return re.sub(r"([\\*`|_])", r"\\\1", words)


def public():
    """Where every public name of a package is documented."""
    found = {}
    for package in sorted((Path(__file__).parents[1] / "grassmann_ssl").glob("*/__init__.py")):
        module = import_module(f"grassmann_ssl.{package.parent.name}")
        for one in names_of(module):
            found.setdefault(one, f"{module.__name__}.{one}")
    return found


PUBLIC = public()
KINDS = {
    "nothing": lambda block: [],
    "paragraph": paragraph,
    "item": item,
    "rows": rows,
    "verbatim": verbatim,
    "example": example,
}
