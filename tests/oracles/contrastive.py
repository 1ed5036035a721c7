"""Contrastive losses of normalised embeddings, pair by pair and as whole matrices: float64, nothing shared with the package."""

import numpy as np
import torch


def nt_xent(z, zp, temperature=0.5):
    n = len(z)
    u = [v / np.sqrt(np.sum(np.square(v))) for v in np.concatenate([z, zp])]
    loss = 0.0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = [np.dot(u[i], u[j]) / temperature for j in range(2 * n) if j != i]
        top = max(others)
        log_sum = top + np.log(np.sum(np.exp([s - top for s in others])))
        loss += (log_sum - np.dot(u[i], u[partner]) / temperature) / (2 * n)
    return loss


def directclr(z, zp, dimensions, temperature=0.1):
    return nt_xent([v[:dimensions] for v in z], [v[:dimensions] for v in zp], temperature)


def dcl(z, zp, temperature=0.1, sigma=None):
    n = len(z)
    u = [v / np.sqrt(np.sum(np.square(v))) for v in np.concatenate([z, zp])]
    weights = np.ones(n)
    if sigma is not None:
        similarity = np.exp([np.dot(u[i], u[i + n]) / sigma for i in range(n)])
        weights = 2 - similarity / np.mean(similarity)
    loss = 0.0
    for i in range(2 * n):
        negatives = [np.exp(np.dot(u[i], u[j]) / temperature) for j in range(2 * n) if j % n != i % n]
        loss += np.log(np.sum(negatives)) - weights[i % n] * np.dot(u[i], u[(i + n) % (2 * n)]) / temperature
    return loss / (2 * n)


def alignment_uniformity(z, zp, alpha=2, t=2, weight=1):
    n = len(z)
    views = [[v / np.sqrt(np.sum(np.square(v))) for v in view] for view in (z, zp)]
    loss = sum(np.sqrt(np.sum((views[0][i] - views[1][i]) ** 2)) ** alpha for i in range(n)) / n
    for u in views:
        exponents = [-t * np.sum((u[i] - u[j]) ** 2) for i in range(n) for j in range(i)]
        top = max(exponents)
        loss += weight / 2 * (top + np.log(np.mean([np.exp(e - top) for e in exponents])))
    return loss


def nt_xent_by_matrix(z, zp, temperature=0.5):
    """For its gradient: the 2n x 2n matrix, its diagonal masked, and a cross-entropy with the other views as classes."""
    n = len(z)
    both = torch.cat([z, zp])
    u = both / both.norm(dim=1, keepdim=True)
    logits = (u @ u.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return torch.nn.functional.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))


def alignment_uniformity_by_matrix(z, zp, alpha=2, t=2, weight=1):
    """For its gradient: all differences, (n, n, d)."""
    u, v = (w / w.norm(dim=1, keepdim=True) for w in (z, zp))
    loss = (u - v).norm(dim=1).pow(alpha).mean()
    for w in (u, v):
        square = (w[:, None] - w).square().sum(-1)[~torch.eye(len(w), dtype=torch.bool)]
        loss = loss + weight / 2 * ((-t * square).logsumexp(0) - np.log(len(square)))
    return loss
