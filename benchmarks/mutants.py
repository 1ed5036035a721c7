"""Are wrong formulas noticed? `python -m benchmarks.mutants` plants faults, one at a time, and reports those that no test sees.

Each fault is one edit in a temporary copy of the tracked files; the tests that belong to the edited file run there with few examples of
each property, the quick ones first and the slow ones where those pass. `--only theory` plants the faults of one package.
Standard output is one JSON object; the exit code is 1 where a fault survived.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1200  # seconds for the tests of one fault; what takes longer is listed as `late`: it may hang, or the machine is busy
NO_TESTS = 5  # exit code of pytest

# file: tests that belong to it, and (old, new) texts
FAULTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "theory/barlow_twins.py": (
        "tests/theory/test_barlow_twins.py",
        (
            ("lower, upper = values[m - d :], values[:d]", "lower, upper = values[m - d - 1 : -1], values[:d]"),
            ("return 4 * (values[within]", "return 2 * (values[within]"),
            ("return -4 * (moved - u @ c)", "return -4 * moved"),
            ("return 2 / float(largest)", "return 1 / float(largest)"),
        ),
    ),
    "theory/stepwise.py": (
        "tests/theory/test_stepwise.py",
        (
            ("np.where(diagonal < 0, -1.0, 1.0)", "np.where(diagonal < 0, 1.0, 1.0)"),
            ("np.minimum(8 * up * at[:, None]", "np.minimum(4 * up * at[:, None]"),
            ("numerator + np.log1p(-np.exp(", "numerator - np.log1p(-np.exp("),
            ("np.arange(values.size, 0, -1) / 2", "np.arange(values.size, 0, -1)"),
            ("return 1 / (4 * largest)", "return 1 / (2 * largest)"),
            ("velocity = mu * velocity - 4", "velocity = mu * velocity - 3.9"),
            ("counts.astype(np.float64) / (1 - _momentum", "counts.astype(np.float64) * (1 - _momentum"),
            ("return float(1 - values[d] / values[d - 1])", "return float(values[d] / values[d - 1])"),
        ),
    ),
    "theory/tangent.py": (
        "tests/theory/test_tangent.py",
        (
            ("np.roll(root, n // 2 * d, axis=0) / n", "np.roll(root, n // 2 * d, axis=0) / (2 * n)"),
            ("(np.eye(d) + delta[j, j]) @ left", "(np.eye(d) - delta[j, j]) @ left"),
            ("ratio) / 2, 1 + ratio / 2) / (2 *", "ratio) / 2, 1 + ratio / 2) / (4 *"),
            ("push * delta[j, learned] @ q", "0 * delta[j, learned] @ q"),
            ("np.log1p(learning_rate * np", "(learning_rate * np"),
            ("left = left - np.outer(q, q)", "left = left - 0 * np.outer(q, q)"),
            ("n * d, n * d) * (4 / n)", "n * d, n * d) * (2 / n)"),
            ("vectors.T @ y) ** 2 * gamma", "vectors.T @ y) ** 2"),
            ('np.einsum("ji,ab->jiab", np.eye(count)', '0 * np.einsum("ji,ab->jiab", np.eye(count)'),
        ),
    ),
    "theory/jepa.py": (
        "tests/theory/test_jepa.py",
        (
            ("coefficient ** (1 / (levels + 1))", "coefficient ** (1 / levels)"),
            ("last = 2 * depth - 1", "last = 2 * depth"),
            ("(np.log(w) - np.log1p(-w / rho))", "(np.log(w) + np.log1p(-w / rho))"),
            ("hyp2f1(1, a, 1 + a, w", "hyp2f1(1, a, 2 + a, w"),
            ("a = 2 / (depth + 1)", "a = 1 / (depth + 1)"),
            ("coefficient ** (2 * levels - 1 - n)) for n", "coefficient ** (2 * levels - n)) for n"),
            ("/ (levels - 1) if levels > 1", "/ levels if levels > 1"),
            ("np.asarray(times[0] / times[1])", "np.asarray(times[1] / times[0])"),
        ),
    ),
    "theory/off_diagonal.py": (
        "tests/theory/test_off_diagonal.py",
        (
            ("weight * (d - learned)) if", "weight * (d - 1)) if"),
            ("min(weight, 1.0) * height", "height"),
            ("waits / slow_downs", "waits * slow_downs"),
        ),
    ),
    "theory/constrained.py": (
        "tests/theory/test_constrained.py",
        (
            ("float(-2 * (lambda_[1] - lambda_[0]))", "float(-(lambda_[1] - lambda_[0]))"),
            ("rates = 2 * (lambda_[outside]", "rates = 4 * (lambda_[outside]"),
            ("graded_span(rows, -2 * lambda_, at)", "graded_span(rows, -lambda_, at)"),
            ("return float(lambda_[d] - lambda_[d - 1])", "return float(lambda_[d] - lambda_[0])"),
            ("return 1 / spread", "return 2 / spread"),
        ),
    ),
    "theory/two_layer.py": (
        "tests/theory/test_two_layer.py",
        (
            ("1.0 if h == d else 1.5", "1.0 if h == d else 2.0"),
            ("denominator = 1 + 4 * rates", "denominator = 1 + 2 * rates"),
            ("3 * w @ (pulled_transposed @ q)", "2 * w @ (pulled_transposed @ q)"),
        ),
    ),
    "theory/kernel.py": (
        "tests/theory/test_kernel.py",
        (
            ("return modes.values[:, :d] / np.sqrt(modes.gamma[:d])", "return modes.values[:, :d] / modes.gamma[:d]"),
            ("/ (sizes.size * gamma[kept])", "/ gamma[kept]"),
        ),
    ),
    "theory/lazy.py": (
        "tests/theory/test_lazy.py",
        (("return (share - 1) / 2 + size", "return share / 2 + size"), ("-1 / (4 * lambda_)", "-1 / (2 * lambda_)")),
    ),
    "theory/graph.py": (
        "tests/theory/test_graph.py",
        (
            ("np.eye(count)) / (2 * count)", "np.eye(count)) / count"),
            ("push, z = columns.T @ a @ outside, -2", "push, z = columns.T @ a @ outside, -1"),
        ),
    ),
    "theory/dimensional_collapse.py": (
        "tests/theory/test_dimensional_collapse.py",
        (
            ("both = alpha + np.swapaxes(alpha, -1, -2)", "both = 2 * alpha"),
            ("z = 2 * x * (own - other) * at[:, None]", "z = x * (own - other) * at[:, None]"),
            ("np.minimum(one, two) ** 2 * exprel(2 *", "np.minimum(one, two) ** 2 * exprel("),
        ),
    ),
    "theory/landscape.py": (
        "tests/theory/test_landscape.py",
        (
            ("-(np.maximum(mu, 0.0) ** 2).sum()", "-np.maximum(mu, 0.0).sum()"),
            ("sw @ (overlap + overlap.T)", "sw @ (overlap + overlap)"),
            ("2 * (high - low) ** 2", "1 * (high - low) ** 2"),
            ("(1 - weight) * sigma + weight * gamma", "sigma + weight * gamma"),
        ),
    ),
    "theory/losses.py": (
        "tests/theory/test_losses.py",
        (
            ("return 4 * self.attraction", "return 8 * self.attraction"),
            ("still / np.sqrt(1 + 8 * self.curvature", "still / np.sqrt(1 + 4 * self.curvature"),
            ("levels = np.where(mu > 0, mu / 2, np.inf)", "levels = np.where(mu > 0, mu / 3, np.inf)"),
            ("root = np.sqrt(1 + 8 * n / (a + n))", "root = np.sqrt(1 + 4 * n / (a + n))"),
            ("(u - 1) ** 2 * rest) / (4 * sigma)", "(u - 1) ** 2 * rest) / (2 * sigma)"),
        ),
    ),
    "theory/regularisation.py": (
        "tests/theory/test_regularisation.py",
        (
            ("b - eta / 4 + kappa", "b - eta / 2 + kappa"),
            ("cost = q + kappa + nu * s**2", "cost = q + kappa + nu * s"),
            ("n - pull + eta / 2", "n - pull + eta"),
        ),
    ),
    "theory/scaling.py": (
        "tests/theory/test_scaling.py",
        (
            ("self._folds(at, 0.0) / (8 * at)", "self._folds(at, 0.0) / (4 * at)"),
            ("self.frontier(t)) ** (1 / self.alpha)", "self.frontier(t)) ** self.alpha"),
            ("self.alpha * z / (z + r)", "self.alpha * z / (z - r)"),
            ("float(np.real(zeta(complex(self.beta)))) -", "float(np.real(zeta(complex(self.beta)))) * 0 -"),
            ("- np.log(self.start) + log_x", "- np.log(self.start) - log_x"),
            ("SPACING * 2 * np.exp(u) / (1 + np.exp(u)) ** 3", "SPACING * np.exp(u) / (1 + np.exp(u)) ** 2"),
            ("PowerLaw(gamma_1, alpha, start, alpha, 0.0)", "PowerLaw(gamma_1, alpha, start, -alpha, 0.0)"),
            (
                "PowerLaw(gamma_1, alpha, start, -alpha, 2 * alpha)",
                "PowerLaw(gamma_1, alpha, start, -alpha, alpha + 1)",
            ),
            ("energy = 4 * time", "energy = 2 * time"),
            ("np.pi**2 * d / (96", "np.pi**2 * d / (48"),
        ),
    ),
    "theory/spectral_norm.py": (
        "tests/theory/test_spectral_norm.py",
        (
            ("theta[..., None, :] - at[:, None], 0.0)", "theta[..., None, :] - 2 * at[:, None], 0.0)"),
            ("- at[:, None], 0.0)", "- at[:, None], -1.0)"),
            ("max(mixed, left) > TOLERANCE * largest", "max(mixed, left) > 10 * largest"),
            ("np.arctan2(sine, cosine), inner", "np.arctan2(sine, 2 * cosine), inner"),
        ),
    ),
    "theory/sigreg.py": (
        "tests/theory/test_sigreg.py",
        (
            ("strength, least=0) * SLOPE * s / (2 * d)", "strength, least=0) * SLOPE * s / d"),
            ("return low - 2 * high + 3**-0.5, 2 *", "return low - 2 * high + 3**-0.5, 1 *"),
            ("poch((d - 1) / 2, 0.5)", "poch(d / 2, 0.5)"),
            ("float(_pulls(y, nu)[-1])", "float(_pulls(y, nu)[0])"),
            ("4 * sigma * (_pulls(y, nu) - alignment)", "4 * sigma * _pulls(y, nu) - alignment"),
            ("levels = variances(a, nu) / 2", "levels = variances(a, nu)"),
            ("rates = 4 * s * (pulls[key] - a)", "rates = 4 * s * pulls[key]"),
            ("pulls[key] = plateau(a[learned], nu, s.size).pull", "pulls[key] = plateau(a[:0], nu, s.size).pull"),
            ("missing = missing - rates * waits.min()", "missing = missing + 0 * waits.min()"),
            ("zip(s[s.size - d :], s[:d], strict=True)", "zip(s[s.size - d :] * 0, s[:d], strict=True)"),
            ("noise[within] - noise[outside]", "noise[within] + noise[outside]"),
            ("    return 2 * result\n", "    return 4 * result\n"),
        ),
    ),
    "theory/predictor/modes.py": (
        "tests/theory/test_predictor_modes.py",
        (
            ("return alpha_p * s * slack - eta * p, 2", "return alpha_p * s * slack - 2 * eta * p, 2"),
            ("tau) ** 2 / (4 * (1 + check", "tau) ** 2 / (2 * (1 + check"),
            ("double / np.sqrt(square) * np.arctan2", "np.arctan2"),
            ("return rate * integral / values", "return integral / values"),
            ("return (alpha_p * a * s + eta) / 2", "return (alpha_p * a * s + 2 * eta) / 2"),
        ),
    ),
    "theory/predictor/basin.py": (
        "tests/theory/test_predictor_basin.py",
        (
            ("(p > 1) & (c <= -1)", "(p > 1) & (c <= 0)"),
            ("(h > 0) & (h <= 0.25)", "(h > 0) & (h < 0.25)"),
            ("rates[2] = 2 * h", "rates[2] = h"),
            ("h * k + h - saddle**2)", "h * k - saddle**2)"),
        ),
    ),
    "theory/predictor/direct.py": (
        "tests/theory/test_predictor_direct.py",
        (
            ("np.sqrt(values) + shift * largest", "np.sqrt(values) + shift * np.sqrt(largest)"),
            ("power = 1 / check", "power = 1 * check"),
            ("np.maximum(shift, 1 / (2 * a))", "np.maximum(shift, 1 / (4 * a))"),
            ("1 + np.sqrt(1 + 4 * shift * p)", "1 + np.sqrt(1 + 2 * shift * p)"),
            ('"no_predictor": lambda x: -2 * variance', '"no_predictor": lambda x: -variance'),
        ),
    ),
    "theory/predictor/asymmetric.py": (
        "tests/theory/test_predictor_asymmetric.py",
        (
            ("speed * residual * w.conj()", "speed * residual * w"),
            ("-2 * decay, decay - a, -q)", "-2 * decay, decay - 2 * a, -q)"),
            ("rate * (2 * a - q) / fast", "rate * (2 * a + q) / fast"),
            ("4 * q**2 + rate**2", "q**2 + rate**2"),
            ("shared * p, total * p**2 + decay", "shared * p, total * p**2"),
        ),
    ),
    "theory/predictor/cosine.py": (
        "tests/theory/test_predictor_cosine.py",
        (
            ("kappa = (prediction * pulled).sum() / square", "kappa = 1.0"),
            ("size = np.sqrt(square * (target", "size = (square * (target"),
            ("np.expm1(2 * decay * at) / (2 * decay)", "np.expm1(decay * at) / decay"),
            ("(rho**2).sum(-1) / (p**2).sum(-1)", "rho.sum(-1) / p.sum(-1)"),
            ("np.maximum(offset, 0.0) + end**2 / speed", "np.maximum(offset, 0.0) + end**2"),
            ("np.outer(diagonal * p, mass * p / square)", "np.outer(diagonal * p, p / square)"),
        ),
    ),
    "theory/predictor/matrices.py": (
        "tests/theory/test_predictor_matrices.py",
        (
            ("dp = -alpha_p / 2 * a", "dp = -alpha_p * a"),
            ("tau * _anti(p, f) - 2 * eta * f", "tau * _anti(p, f) - eta * f"),
            ("(eta + eta_p / 2) * np.eye", "(eta + eta_p) * np.eye"),
            ("p.T @ p + identity)", "p.T @ p)"),
            ("(1 - kept) / step", "(1 - kept) / alpha"),
        ),
    ),
    "grassmann_ssl/objectives/contrastive.py": (
        "tests/objectives/test_contrastive.py tests/objectives/test_objectives.py",
        (
            ("return -2 * attraction + (weights.mT", "return -1 * attraction + (weights.mT"),
            ("/ (2 * n) ** 2", "/ (2 * n**2)"),
            ("log_det = 2 * factor", "log_det = factor"),
        ),
    ),
    "grassmann_ssl/objectives/noncontrastive.py": (
        "tests/objectives/test_noncontrastive.py tests/objectives/test_objectives.py",
        (
            ("/ (2 * count**2)", "/ (count**2)"),
            ("diagonal = (z * z_positive).sum(0) / count", "diagonal = (z * z_positive).sum(0) / (2 * count)"),
            ("distance = 4 * (weights.mT", "distance = 2 * (weights.mT"),
        ),
    ),
    "grassmann_ssl/objectives/vicreg.py": (
        "tests/objectives/test_noncontrastive.py tests/objectives/test_noncontrastive_everywhere.py",
        (
            ("variance / 2, covariance) for v", "variance, covariance) for v"),
            ("squares = products.diagonal() / (n - 1)", "squares = products.diagonal() / n"),
        ),
    ),
    "grassmann_ssl/objectives/nt_xent.py": (
        "tests/objectives/test_contrastive.py",
        ((".sum()) / (2 * n)", ".sum()) / n"), (".repeat(2) / temperature", ".repeat(2)")),
    ),
    "grassmann_ssl/objectives/trace.py": (
        "tests/objectives/test_objectives.py",
        (
            ("return (2 * matrix) @ weights", "return matrix @ weights"),
            ("return (z - z_positive).square().sum(-1).mean() / 2", "return (z - z_positive).square().sum(-1).mean()"),
        ),
    ),
    "grassmann_ssl/objectives/penalties.py": (
        "tests/objectives/test_penalties.py",
        (
            ("- 2**0.5 * (-v.square() / 4)", "- 2**0.5 * (-v.square() / 2)"),
            ("- 2 * (2 + v).rsqrt()", "- (2 + v).rsqrt()"),
        ),
    ),
    "grassmann_ssl/objectives/hypersphere.py": (
        "tests/objectives/test_noncontrastive.py tests/objectives/test_contrastive.py",
        (("math.log(n * (n - 1)))", "math.log(n * n))"),),
    ),
    "grassmann_ssl/manifolds/grassmann.py": (
        "tests/manifolds/test_grassmann.py",
        (("x @ (sinc @ along)", "x @ (cosine @ along)"), ("t * self.logmap(x, y)", "self.logmap(x, t * y)")),
    ),
    "grassmann_ssl/manifolds/stiefel.py": (
        "tests/manifolds/test_stiefel.py",
        (("@ _exponential(-a)", "@ _exponential(a)"), ("keepdim=keepdim) - along / 2", "keepdim=keepdim) - along")),
    ),
    "grassmann_ssl/manifolds/orthonormal.py": (
        "tests/manifolds/test_orthonormal.py tests/manifolds/test_grassmann.py tests/manifolds/test_tall.py",
        (
            ("-3 / 8, -10 / 8)", "-3 / 8, -9 / 8)"),
            ("scale = 1 / (1 + length**2 / 2)", "scale = 1 / (1 + length**2)"),
            ("middle = 1 + spread / 2", "middle = 1 + spread"),
        ),
    ),
    "grassmann_ssl/manifolds/means.py": (
        "tests/manifolds/test_means.py",
        (
            ("step = (weights * logarithms).sum(-3)", "step = logarithms.sum(-3)"),
            ("return weights / total", "return weights"),
        ),
    ),
    "grassmann_ssl/optim/adam.py": (
        "tests/optim/test_optimizers.py tests/optim/test_geoopt.py",
        (
            ("average.lerp_(gradient, 1 - beta1)", "average.lerp_(gradient, beta1)"),
            ("lerp_(square, 1 - beta2)) / (1 - beta2**steps)", "lerp_(square, 1 - beta2))"),
            ('-group["lr"] / (1 - beta1**steps)', '-group["lr"]'),
            ("torch.maximum(largest,", "torch.minimum(largest,"),
            ('size = scale**0.5 + group["eps"]', 'size = (scale + group["eps"]) ** 0.5'),
            ("vector_norm(gradient, dim=-1, keepdim=True)", "vector_norm(average, dim=-1, keepdim=True)"),
            ("manifold.proju_(x, average / size)", "average / size"),
            ("average.copy_(moved)", "pass"),
        ),
    ),
    "grassmann_ssl/optim/sgd.py": (
        "tests/optim/test_optimizers.py tests/optim/test_geoopt.py",
        (
            ("torch.add(gradient, buffer, alpha=momentum), buffer, -lr", "buffer, buffer, -lr"),
            (
                "manifold.proju_(x, torch.add(gradient, buffer, alpha=momentum, out=buffer))",
                "torch.add(manifold.proju(x, gradient), buffer, alpha=momentum, out=buffer)",
            ),
            ("gradient + momentum * buffer if", "gradient + buffer if"),
        ),
    ),
    "grassmann_ssl/optim/muon.py": (
        "tests/optim/test_muon.py",
        (
            ("2 * _hermitian((a + multiplier) @ t)", "2 * (a + multiplier) @ t"),
            ("half = multiplier @ (a + multiplier / 2)", "half = multiplier @ (a + multiplier)"),
            ("u = (g + normal) @ t", "u = g @ t"),
            ("/ (1 + _size(residual @ residual).sqrt())", ""),
            ("t, a = t @ q, q @ a @ q", "t, a = t @ q, a @ q"),
            ("gradient, _ = tangent_gradient(manifold, x, gradient)", "pass"),
        ),
    ),
    "grassmann_ssl/optim/landing.py": (
        "tests/optim/test_optimizers.py",
        (
            ("(self.safety - d)", "(1 - d)"),
            ("a = self.attraction * d * (1 - d)", "a = self.attraction * d * (1 + d)"),
            ('min(group["lr"], 1 / (2 * self.attraction))', 'group["lr"]'),
        ),
    ),
    "grassmann_ssl/optim/lars.py": (
        "tests/optim/test_lars.py",
        (('alpha=group["weight_decay"])', "alpha=0.0)"), ('group["trust"] * w / g', 'group["trust"] * w')),
    ),
    "grassmann_ssl/optim/lbfgs.py": (
        "tests/optim/test_line_search.py tests/optim/test_optimizers.py",
        (
            ("q *= scale[:, None]", "q *= 1.0"),
            ("q[:, i] += first - ", "q[:, i] += first + "),
            ("taken & ~known, np", "taken, np"),
        ),
    ),
    "grassmann_ssl/optim/cg.py": (
        "tests/optim/test_line_search.py tests/optim/test_optimizers.py",
        (
            (
                "np.minimum(points.sum(points.inner(here.gradient, change)), points.sum(here.squares))",
                "points.sum(here.squares)",
            ),
            ("old = [s.space.proju(s.x, d) for s, d", "old = [d for s, d"),
            ("np.clip(flat, 0.25, 4.0)", "1.0"),
        ),
    ),
    "grassmann_ssl/training/many_systems.py": (
        "tests/training/test_many_systems.py",
        (("alpha=step / 6)", "alpha=step / 5)"), ("counts.double() * step", "counts.double()")),
    ),
    "grassmann_ssl/training/full_batch.py": (
        "tests/training/test_full_batch.py",
        (("log_norm = log_norm + norm.log()", "log_norm = norm.log()"),),
    ),
    "grassmann_ssl/training/schedules.py": (
        "tests/training/test_encoders.py",
        (
            ("(1 - end) * (1 + math.cos", "(1 - end) * (1 - math.cos"),
            ("return (step + 1) / warmup", "return step / warmup"),
        ),
    ),
    "grassmann_ssl/experiments/linear/measure.py": (
        "tests/experiments/linear/test_measure.py",
        (("window[len(window) // 2 :]", "window"), ("/ then.flatten(1).norm(dim=1)", "/ now.flatten(1).norm(dim=1)")),
    ),
    "grassmann_ssl/experiments/linear/stepwise.py": (
        "tests/experiments/linear/test_stepwise.py",
        (
            ("/ np.sqrt(config.seeds))", "* np.sqrt(config.seeds))"),
            ("error = np.abs(measured / problem.times - 1)", "error = np.abs(measured / measured - 1)"),
            ("eigenvalues / problem.law.heights, HALF)", "eigenvalues / problem.law.heights, 0.8)"),
        ),
    ),
    "grassmann_ssl/experiments/linear/stepwise_laws.py": (
        "tests/experiments/linear/test_stepwise.py",
        (("modes.step_times(start)", "1.1 * modes.step_times(start)"),),
    ),
    "grassmann_ssl/experiments/linear/collapse.py": (
        "tests/experiments/linear/test_collapse.py",
        (
            ("(np.array(kinds) == predicted)", "(np.array(kinds) == kinds)"),
            ("< RANK_TOLERANCE * rank", "< rank"),
            ("< CONVERGED * speed.amax(-1)", "<= speed.amax(-1)"),
        ),
    ),
    "grassmann_ssl/experiments/linear/collapse_theory.py": (
        "tests/experiments/linear/test_collapse.py",
        (
            ("return inputs.sigma[:, :d]", "return inputs.sigma[:, -d:]"),
            ("below = decay <", "below = decay >"),
            ('leave_open=("orthogonality",)', "leave_open=()"),
        ),
    ),
    "grassmann_ssl/experiments/phase/sweeps.py": (
        "tests/experiments/phase/test_networks.py",
        (("np.array_equal(alive[cells], expected[cells])", "np.array_equal(alive[cells], alive[cells])"),),
    ),
    "grassmann_ssl/experiments/phase/commutator.py": (
        "tests/experiments/phase/test_networks.py",
        (("np.exp(-2 * margin", "np.exp(-1 * margin"), ("np.abs(size - exact)", "np.abs(exact - exact)")),
    ),
    "grassmann_ssl/experiments/phase/ema.py": (
        "tests/experiments/phase/test_networks.py",
        (
            ("np.abs(tau - exact_tau)", "np.abs(exact_tau - exact_tau)"),
            ("np.abs(measured - exact)", "np.abs(exact - exact)"),
        ),
    ),
    "grassmann_ssl/experiments/phase/directpred.py": (
        "tests/experiments/phase/test_networks.py",
        (("(kept == expected)", "(kept == kept)"),),
    ),
    "grassmann_ssl/experiments/phase/networks.py": (
        "tests/experiments/phase/test_networks.py",
        (
            ("symmetric * (slope.mT - slope) / 2", "symmetric * (slope.mT - slope)"),
            ("beta * (weights - target)", "beta * weights"),
        ),
    ),
    "grassmann_ssl/experiments/phase/modes.py": (
        "tests/experiments/phase/test_modes.py",
        (("2 * (p * pull - eta * s)", "p * pull - eta * s"),),
    ),
    "grassmann_ssl/experiments/encoders/stepwise_deep.py": (
        "tests/experiments/encoders/test_stepwise_deep.py",
        (("compute_uv=False) ** 2).mean()", "compute_uv=False)).mean()"),),
    ),
    "grassmann_ssl/nn/ntk.py": (
        "tests/nn/test_ntk.py",
        ((".diagonal(dim1=-2, dim2=-1).mean(-1)", ".diagonal(dim1=-2, dim2=-1).sum(-1)"),),
    ),
}


@dataclass(frozen=True)
class Fault:
    """One edit, and the tests that have to notice it."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def faults(only: str = "") -> Iterator[Fault]:
    """All of the table, or those of files whose path contains `only`."""
    for file, (tests, edits) in FAULTS.items():
        if only in file:
            yield from (Fault(file, old, new, tuple(tests.split())) for old, new in edits)


def ending(fault: Fault, copy: Path) -> str:
    """What becomes of a fault planted in a copy of the project: "noticed" by the tests of its file, "late", or of the "survivors"."""
    path = copy / fault.file
    text = path.read_text()
    path.write_text(text.replace(fault.old, fault.new, 1))
    try:
        return next((end for which in ("not slow", "slow") if (end := _end(fault.tests, which, copy))), "survivors")
    finally:
        path.write_text(text)


def _end(tests: tuple[str, ...], which: str, copy: Path) -> str | None:
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-m",
        which,
        *tests,
    ]
    quick = {"HYPOTHESIS_PROFILE": "quick", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    try:
        code = subprocess.run(
            command,
            cwd=copy,
            env=os.environ | quick,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
        ).returncode
    except subprocess.TimeoutExpired:
        return "late"
    return None if code in (0, NO_TESTS) else "noticed"


def main(only: str = "") -> int:
    """Plant the faults of files whose path contains `only`, and print which survive."""
    chosen, start = list(faults(only)), time.monotonic()
    listed: dict[str, list[dict[str, str]]] = {"survivors": [], "late": []}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, tracked.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
        for k, fault in enumerate(chosen):
            end = ending(fault, copy)
            if end in listed:
                listed[end].append({"file": fault.file, "old": fault.old, "new": fault.new})
            print(f"{k + 1} of {len(chosen)}: {end}: {fault.file}: {fault.old} -> {fault.new}", file=sys.stderr)
    seconds = round(time.monotonic() - start)
    print(json.dumps({"only": only, "faults": len(chosen), **listed, "seconds": seconds}, indent=1))
    return int(bool(listed["survivors"]))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
