"""Objectives with a state, row by row in numpy float64, nothing shared with the package: each returns its loss and its next state."""

import numpy as np


def unit(z):
    return np.array([row / np.sqrt(row @ row) for row in z])


def enqueue(queue, place, rows):
    queue = np.array(queue)
    for row in rows:
        queue[place] = row
        place = (place + 1) % len(queue)
    return queue, place


def moco(p, t, p2, t2, queue, place, temperature):
    loss = 0.0
    for queries, keys in ((unit(p), unit(t)), (unit(p2), unit(t2))):
        for q, k in zip(queries, keys, strict=True):
            scores = np.exp([q @ k / temperature, *(q @ r / temperature for r in queue)])
            loss -= np.log(scores[0] / np.sum(scores)) / (2 * len(p))
    return loss, *enqueue(queue, place, [*unit(t2), *unit(t)])


def nnclr(p, t, p2, t2, queue, place, temperature):
    loss = 0.0
    for predictions, targets in ((unit(p), unit(t)), (unit(p2), unit(t2))):
        for i in range(len(p)):
            neighbour = max(queue, key=lambda row: row @ targets[i])  # called in this turn
            scores = np.exp([neighbour @ other / temperature for other in predictions])
            loss -= np.log(scores[i] / np.sum(scores)) / (2 * len(p))
    return loss, *enqueue(queue, place, unit(t2))


def tico(p, t, p2, t2, moment, beta, rho):
    loss = 0.0
    for predictions, targets in ((unit(p), unit(t)), (unit(p2), unit(t2))):
        own = beta * moment + (1 - beta) * sum(np.outer(u, u) for u in predictions) / len(p)
        loss += np.mean([1 - u @ v + rho * u @ own @ u for u, v in zip(predictions, targets, strict=True)]) / 2
    both = np.concatenate([unit(p), unit(p2)])
    return loss, beta * moment + (1 - beta) * sum(np.outer(u, u) for u in both) / len(both)


def softmax(x):
    return np.exp(x) / np.sum(np.exp(x))


def dino(p, t, p2, t2, centre, temperature, teacher_temperature, momentum):
    loss = 0.0
    for predictions, targets in ((p, t), (p2, t2)):
        for student, teacher in zip(predictions, targets, strict=True):
            classes = softmax((teacher - centre) / teacher_temperature)
            loss -= classes @ np.log(softmax(student / temperature)) / (2 * len(p))
    return loss, momentum * centre + (1 - momentum) * np.mean(np.concatenate([t, t2]), axis=0)


def swav_codes(z, prototypes, epsilon):
    """As lightly has it: the matrix of all exponentials divided by its sum, columns and rows in turn, three times."""
    scores = unit(z) @ unit(prototypes).T
    q = np.exp(scores.T / epsilon)
    q = q / np.sum(q)
    for _ in range(3):
        q = q / np.sum(q, axis=1, keepdims=True) / len(q)
        q = q / np.sum(q, axis=0, keepdims=True) / len(z)
    return len(z) * q.T


def swav(z, z2, prototypes, temperature, codes, codes2):
    """Each view under the codes of the other."""
    loss = 0.0
    for rows, classes in ((z, codes2), (z2, codes)):
        for u, q in zip(unit(rows), classes, strict=True):
            loss -= q @ np.log(softmax(unit(prototypes) @ u / temperature)) / (2 * len(z))
    return loss
