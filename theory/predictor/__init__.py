"""Learning with a predictor and a stop-gradient, without negatives (Tian, Chen & Ganguli, ICML 2021, arXiv 2102.06810).

Online weights W (m, d) and f = W^T x (our W is the paper's W transposed), linear predictor W_p (d, d), target W_a (m, d):
    J = (1/2) E ||W_p W^T x_1 - stop(W_a^T x_2)||^2                                                   eq. (1)
with mean view xbar = E[x' | x], X = E xbar xbar^T, X' = E Cov[x' | x].
Unit of time everywhere: t = alpha x step, alpha the learning rate of the online weights. Settings, the same in all modules:
    alpha_p > 0    learning rate of the predictor over that of the weights
    eta >= 0       weight decay of the flow, on weights and predictor: dW/dt = ... - eta W
    beta > 0       rate of the moving average, dW_a/dt = beta (W - W_a)
    tau            the target as a multiple of the weights, W_a = tau W
    sigma2 >= 0    augmentation variance where X = I, X' = sigma2 I;  A = 1 + sigma2 below
    matrices    the flows of W, W_p, W_a, their invariants, and what happens without stop-gradient or predictor
    modes       one eigenvalue p of W_p with one eigenvalue s of F = W^T X W: fixed points, Jacobians, escape times
    basin       which starts (p, s) collapse, and the separatrix between the two fates
    asymmetric  complex w_p, w, w_a: the antisymmetric part of the predictor, stability, which input directions take over
    cosine      the cosine loss: what normalising the features adds, where it ends, why weight decay has nothing to balance
    direct      predictors computed from F instead of trained: DirectPred, DirectSet, DirectCopy, and IsoLoss
"""

from theory.predictor import asymmetric, basin, cosine, direct, matrices, modes

__all__ = ["asymmetric", "basin", "cosine", "direct", "matrices", "modes"]
