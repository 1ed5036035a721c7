"""The phase experiments on single modes: rules against the loss, verdicts and end points against theory, maps cell by cell."""

import numpy as np
import pytest
import torch

from grassmann_ssl.experiments.phase import fates
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.experiments.phase.fixed_points import FixedPointsConfig
from grassmann_ssl.experiments.phase.flow_fields import FlowFieldsConfig, equal_target, following_target
from grassmann_ssl.experiments.phase.modes import modes, modes_with_target
from grassmann_ssl.experiments.phase.portraits import PortraitsConfig
from grassmann_ssl.runs import ConfigError
from grassmann_ssl.training import simulate


def scalar_network(w, w_p, w_a, lambda_d, lambda_s):
    """J = (1/2) E (w_p w x1 - stop(w_a x2))^2 of one weight, E x1^2 = lambda_s, E x1 x2 = lambda_d, by autograd."""
    w, w_p = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (w, w_p))
    loss = (w_p * w) ** 2 * lambda_s / 2 - w_p * w * w_a * lambda_d
    loss.backward()
    return w.grad.item(), w_p.grad.item()


def test_the_rules_are_the_gradients_of_the_loss():
    w, w_p, tau, alpha_p, eta, sigma2, beta = 0.7, 0.4, 0.8, 1.6, 0.05, 0.3, 0.9
    gw, gp = scalar_network(w, w_p, tau * w, 1.0, 1 + sigma2)
    one = {"alpha_p": alpha_p, "eta": eta, "sigma2": sigma2}
    p, s = torch.tensor([w_p], dtype=torch.float64), torch.tensor([w**2], dtype=torch.float64)
    slope = modes(p, s, tau=tau, **one)
    assert abs(slope["p"].item() - (-alpha_p * gp - eta * w_p)) < 1e-15
    assert abs(slope["s"].item() - 2 * w * (-gw - eta * w)) < 1e-15
    # tau = w_a / w: d tau = (dw_a - tau dw) / w
    followed = modes_with_target(p, s, torch.tensor([tau], dtype=torch.float64), **one, beta=beta)
    assert abs(followed["tau"].item() - (beta * (w - tau * w) - tau * (-gw - eta * w)) / w) < 1e-14
    settings = {"lambda_d": 0.6, "lambda_s": 1.1, "alpha_p": alpha_p, "eta": eta}
    gw, gp = scalar_network(w, w_p, 0.5, 0.6, 1.1)
    state = [torch.tensor([v], dtype=torch.float64) for v in (w_p, w, 0.5)]
    slope = following_target(*state, **settings, beta=beta)
    expected = {"w_p": -alpha_p * gp - eta * w_p, "w": -gw - eta * w, "w_a": beta * (w - 0.5)}
    assert all(abs(slope[name].item() - value) < 1e-15 for name, value in expected.items())
    gw, gp = scalar_network(w, w_p, w, 0.6, 1.1)
    slope = equal_target(*state[:2], **settings)
    assert abs(slope["w"].item() - (-gw - eta * w)) < 1e-15


def test_the_verdict_is_read_off_the_simulation():
    half, end = np.array([1.0, 1.0, 1.0, 1e-320, np.nan]), np.array([0.99, 0.49, 1.5, 1e-320, np.nan])
    assert fates.fell(half, end).tolist() == [False, True, False, True, False]


def test_a_simulation_in_float64_keeps_the_offset():
    """c = s - p^2 / alpha_p decays as e^{-2 eta t}, to the order of Runge-Kutta."""
    state = {"p": torch.tensor([0.3, -0.2], dtype=torch.float64), "s": torch.tensor([0.5, 0.1], dtype=torch.float64)}
    run = simulate(modes, state, {"tau": 1.0, "alpha_p": 2.0, "eta": 0.1, "sigma2": 0.2}, step=0.01, steps=200)
    c = run["s"][-1] - run["p"][-1] ** 2 / 2
    start = state["s"] - state["p"] ** 2 / 2
    assert (c - start * np.exp(-2 * 0.1 * 2.0)).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (BasinConfig, {"cells": 0}, "cells must be finite and >= 1"),
        (BasinConfig, {"p_range": (1.0, 0.0)}, "p_range must run from a smaller to a larger"),
        (BasinConfig, {"eta": -0.1}, "eta must be finite and >= 0"),
        (BasinConfig, {"start": (0.1, 0.0)}, "start must have s > 0"),
        (FlowFieldsConfig, {"lambda_d": 2.0}, "lambda_d must be at most lambda_s"),
        (PortraitsConfig, {"alpha_p": (0.0,)}, "alpha_p must be finite and > 0"),
        (FixedPointsConfig, {"sigma2": -1.0}, "sigma2 must be finite and >= 0"),
    ],
)
def test_bad_settings_are_named(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
