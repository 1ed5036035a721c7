"""Shape annotations are checked in tests, by beartype, with an int taken where a float is asked for, as everywhere in Python."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from jaxtyping._import_hook import JaxtypingTransformer

beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install():
    """Check what is imported of grassmann_ssl from now on, but for functions within functions.

    Those are made anew at every call of the outer one, and with them their checks, by compiling: 1 ms each, a tenth of the suite.
    """
    visit = JaxtypingTransformer.visit_FunctionDef

    def visit_the_outer(self, node):
        body, node.body = node.body, []
        visit(self, node)
        node.body = body
        return node

    JaxtypingTransformer.visit_FunctionDef = visit_the_outer
    install_import_hook("grassmann_ssl", f"{__name__}.beartyped")
