"""The theory predicts, and shares no code with training."""

import subprocess
import sys

PROBE = """
import sys, theory
loaded = {name.split('.')[0] for name in sys.modules}
print(sorted(loaded & {'torch', 'grassmann_ssl', 'geoopt', 'pymanopt', 'matplotlib', 'sklearn'}))
print(theory.stepwise.__name__, theory.constrained.__name__, theory.losses.__name__)
"""


def test_importing_the_theory_loads_numpy_and_scipy_only():
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["[]", "theory.stepwise theory.constrained theory.losses"]
