"""Equations as MathML by docutils: nothing is loaded to show them, and screen readers read them."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def visit_math(writer, node):
    """An equation within a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(writer, node):
    """An equation of its own."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
