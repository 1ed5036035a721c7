"""The rows of the reproduction table: what a paper says, the command that shows it here, and what its run has to hold for that.

A bound of a check is either a claim of the paper in numbers or one of: the first order in the learning rate of the run; what other
programs reach (2 % of step times at this start); rounding. Statements are restated in our words.
"""

from dataclasses import dataclass
from typing import Literal

SIMON = "Simon et al. 2023, On the stepwise nature of self-supervised learning (arXiv 2303.15438)"
TIAN = "Tian, Chen and Ganguli 2021, Understanding self-supervised learning dynamics without contrastive pairs (arXiv 2102.06810)"
WANG = "Wang, Chen, Du and Tian 2021, Towards demystifying representation learning with non-contrastive self-supervision (arXiv 2110.04947)"
ESSER = "Esser, Mukherjee and Ghoshdastidar 2023, Representation learning dynamics of self-supervised models (arXiv 2309.02011)"
OTHERS = "Further papers"
FULL, ABSTRACT, CAPTION, BLOG = "full text read", "abstract read", "caption read", "the authors' blog read"
SECOND = "restated elsewhere; the paper's own words are not readable here"
UNREAD = "not readable here"


@dataclass(frozen=True)
class Check:
    """`what`, the numbers at `path` of run.json, are at most, at least or equal to `than`: a number, a text, or what is at
    another path (A:B).

    `what_than` names that. Paths are keys A:B:C; `*` stands for all, `#` for how many there are.
    """

    what: str
    path: str
    relation: Literal["at most", "at least", "equal to"]
    than: float | str
    what_than: str = "those predicted,"

    @property
    def other(self) -> str | None:
        """The path of what it is compared with, where that is a number of the run too."""
        return self.than if isinstance(self.than, str) and ":" in self.than else None


@dataclass(frozen=True)
class Row:
    """A figure or table of a paper, and the command whose run is held against it.

    `source`: what was read of it, `read` whether that was enough to compare; `ours`: on what the command trains. Without a command `why`
    says what is missing.
    """

    name: str
    paper: str
    item: str
    says: str
    source: str
    command: str | None = None
    checks: tuple[Check, ...] = ()
    ours: str = ""
    why: str = ""
    read: bool = True


STEP_TIMES = (
    Check("worst relative error of a step time", "step_times:worst_error", "at most", 0.02),
    Check("steps not seen", "step_times:not_seen", "equal to", 0),
)
DEEP = "grassmann-ssl stepwise-deep --objectives barlow_twins --batch 256 --steps 300 --records 100 --pairs 50"
SMALL, USUAL = "barlow_twins from 0.01", "barlow_twins from 1"
NO_STL = "STL-10, CIFAR-10 and ImageNet are not at hand"
TABLE = "grassmann-ssl directpred-table"


def tests(name: str) -> tuple[str, tuple[Check, ...]]:
    """The command that trains the twins of a closed form, and that all of them agree."""
    checks = (
        Check("tests that pass", "passed", "at least", 1),
        Check("tests that fail", "failed", "equal to", 0),
        Check("errors", "error", "equal to", 0),
    )
    return f"pytest -q -p no:cacheprovider {name}", checks


def closed_form(name: str, item: str, says: str, source: str, file: str, read: bool = True) -> Row:
    """A row whose twins are trained by the tests of a module of `theory`."""
    command, checks = tests(file)
    return Row(
        name, OTHERS, item, says, source, command, checks, ours="closed forms against models that train", read=read
    )


ROWS = (
    Row(
        "linear-steps", SIMON, "Fig. 1 A, B",
        "the loss falls and the eigenvalues of C rise in steps, at the predicted times; linear model, 500 pairs of CIFAR-10", CAPTION,
        "grassmann-ssl stepwise",
        (*STEP_TIMES,
         Check("mean step times before any draw, in standard errors", "a_priori:worst_deviation", "at most", 3)),
        ours="digits, d = 5, 10 seeds",
    ),
    Row(
        "kernel", SIMON, "Sec. 5, Prop. 5.1",
        "a kernel method learns the top modes of K_Γ, step by step: kernel PCA", SECOND,
        "grassmann-ssl stepwise --model random_features",
        (*STEP_TIMES,
         Check("embeddings from kernel values against those from features, relative", "kernel:closed_form_error", "at most", 1e-8),
         Check("embeddings of held-out samples after training, median, relative", "kernel:trained_error", "at most", 0.05)),
        ours="random ReLU features of digits, d = 5, 10 seeds",
    ),
    Row(
        "deep-steps", SIMON, "Fig. 1 C, D; blog, Fig. 3",
        "deep networks from small weights learn one eigenvalue after the other, with Barlow Twins, SimCLR and VICReg; ResNets on STL-10",
        f"{CAPTION} in part; {BLOG}", DEEP,
        (Check("eigenvalues of cov z that rise one by one, of 8", f"runs:{SMALL}:apart:z", "at least", 4),
         Check("falls of the loss", f"runs:{SMALL}:steps_of_loss:#", "at least", 2)),
        ours="conv encoder on digits, Barlow Twins alone, half of the eigenvalues in steps of their own",
    ),
    Row(
        "usual-start", SIMON, "Fig. 2", "steps remain, less clear, from the usual initialisation", SECOND, DEEP,
        (Check("eigenvalues of cov z that rise one by one, of 8", f"runs:{USUAL}:apart:z", "at least", 2),),
        ours="the same, last layer of the usual size; more than one step",
    ),
    Row(
        "hidden", SIMON, "Figs. 3, 4", "steps are seen in hidden representations too", SECOND, DEEP,
        (Check("of the 8 largest eigenvalues of cov h, rise one by one", f"runs:{SMALL}:apart:h", "at least", 2),),
        ours="representations before the head; more than one step",
    ),
    Row(
        "growth", SIMON, "Blog, Fig. 1", "embeddings grow from a point to a line and a surface; an animation", BLOG,
        "grassmann-ssl stepwise",
        (Check("dimensions of the embedding", "growth:dimensions", "equal to", "growth:steps", "the number of steps,"),),
        ours="the same picture of a linear model on digits, growth.svg, at its start and after each of three steps",
    ),
    Row(
        "kernel-after", SIMON, "Blog", "embeddings are those that the tangent kernel after training predicts, and agree across methods",
        BLOG, DEEP,
        (Check("overlap after training", f"runs:{SMALL}:overlap:after", "at least", f"runs:{SMALL}:overlap:before", "that before,"),
         Check("overlap after training", f"runs:{SMALL}:overlap:after", "at least", 0.5)),
        ours="spans of z on 50 pairs, one method; 1 is equality, 0.08 chance, one half the least that is called agreement here",
    ),
    Row(
        "byol", SIMON, "Footnote 16", "steps are not immediately seen with BYOL", SECOND,
        why="no command; in linear networks without negatives a mode escapes in the time 1/p₀, algebraic in its start and not logarithmic "
        "(`theory.predictor`, held to training by the row of Fig. 4), which would blur steps: our explanation, not the paper's",
    ),
    Row("speed", SIMON, "App. G", "updates along eigendirections near zero make learning faster", SECOND,
        why="how they are chosen is not readable here"),
    Row(
        "alignment", TIAN, "Fig. 2",
        "eigenspaces of predictor and correlations align, with and without symmetrisation; the asymmetry falls", FULL,
        "grassmann-ssl phase-alignment",
        (Check("smallest |cos|, median", "final_cosine:*", "at least", 0.99),
         Check("asymmetry at the end", "final_asymmetry:*", "at most", 0.01),
         Check("error of the flow at the smaller learning rate", "flow_errors:1", "at most", 0.02)),
        ours="linear networks on isotropic data",
    ),
    Row(
        "portraits", TIAN, "Fig. 3", "phase portraits of a mode (p, s) for η = 0, 0.01 and 1: from where it collapses", FULL,
        "grassmann-ssl phase-portraits",
        (Check("verdicts that differ", "panels:*:differing", "equal to", 0),
         Check("error of the conserved s − p²/α_p", "panels:*:conservation_error", "at most", 1e-4)),
        ours="66 starts each",
    ),
    Row(
        "fixed-points", TIAN, "Fig. 4", "fixed points against weight decay; none but 0 beyond η = τ²/(4(1 + σ²))", FULL,
        "grassmann-ssl phase-fixed-points",
        (Check("distance of ends from p*₊, p*₊²/α_p", "panels:*:upper_error", "at most", 1e-6),
         Check("largest η with a survivor", "panels:*:largest_surviving_eta", "at most", "panels:*:eta_critical", "the critical ones,"),
         Check("smallest η without one", "panels:*:smallest_collapsing_eta", "at least", "panels:*:eta_critical", "the critical ones,")),
        ours="three settings of τ and α_p",
    ),
    Row(
        "sweeps", TIAN, "Fig. 5; observations 1, 4, 5, 10",
        "more weight decay, a slower target or a smaller learning rate of the predictor let modes collapse", FULL,
        "grassmann-ssl phase-sweeps",
        tuple(
            Check(f"modes that survive, by {words}", f"survivors:{name}:measured", "equal to", f"survivors:{name}:predicted")
            for name, words in (("eta", "η"), ("beta", "β"), ("alpha_p", "α_p"))
        ),
        ours="11 networks that train, 3 modes each",
    ),
    Row(
        "rate-of-predictor", TIAN, "Fig. 6", "without EMA, a symmetric predictor of larger α_p reaches a higher accuracy",
        "text read; the figure's values are not readable here", TABLE,
        (Check("α_p = 0.1 against 1", "claims:-2:verdict", "equal to", "as reported"),
         Check("α_p = 10 against 1", "claims:-1:verdict", "equal to", "as reported")),
        ours="digits",
    ),
    Row(
        "ema", TIAN, "Fig. 7", "how the EMA target follows the weights, for several γ_a and η", FULL, "grassmann-ssl phase-ema",
        (Check("error of corr(W_a, W)", "error", "at most", 0.02), Check("error of τ", "tau_error", "at most", 0.02)),
        ours="120 networks that train, at learning rate 0.02",
    ),
    Row(
        "symmetry", TIAN, "Fig. 8", "the antisymmetric part of the predictor decays", FULL, "grassmann-ssl phase-symmetry",
        (Check("errors of both parts", "errors", "at most", 1e-6),
         Check("drift of the balance, theorem 1", "balance_drift", "at most", 1e-6)),
        ours="15 networks",
    ),
    Row(
        "commutator", TIAN, "Fig. 9; theorem 3", "‖[F, W_p]‖ decays where K is positive, and may grow where it is not", FULL,
        "grassmann-ssl phase-commutator",
        (Check("networks above the bound", "broken", "equal to", 0),
         Check("networks that grow though K is positive", "grew_held", "equal to", 0),
         Check("networks that grow", "grew", "at least", 1)),
        ours="45 networks",
    ),
    Row(
        "flow-fields", TIAN, "Fig. 10", "flow fields with λ_s = 1, λ_d = 1/2: which starts collapse, and where the others end", FULL,
        "grassmann-ssl phase-flow-fields",
        (Check("verdicts that differ, w_a = w", "panels:0:differing", "equal to", 0),
         Check("verdicts that differ, w_a = w, with weight decay", "panels:2:differing", "equal to", 0),
         Check("distance of ends from the fixed point", "panels:*:end_error", "at most", 1e-5)),
        ours="72 starts each",
    ),
    Row(
        "basin", TIAN, "Sec. 3", "the basin of collapse of a mode ends at the unstable fixed point p*₋", FULL, "grassmann-ssl phase-basin",
        (Check("cells that differ off the boundary", "counts:differing_not_crossed", "equal to", 0),
         Check("cells", "counts:cells", "at least", 65536)),
        ours="map of starts",
    ),
    Row("plugged", TIAN, "Table 1",
        "the optimal linear predictor, set every few batches, is worse than one by SGD: 35 to 41 against 74 %", FULL,
        why=f"no command sets it; {NO_STL}"),
    Row(
        "predictors", TIAN, "Tables 2, 3, 5, 8 in kind",
        "differences of linear probes between predictors by SGD, symmetric or not, DirectPred, at every batch or with SGD between, "
        "with and without EMA and weight decay; STL-10, CIFAR-10", FULL, TABLE,
        (Check("differences, those of Fig. 6 and of DirectCopy among them", "claims:*:verdict", "equal to", "as reported"),),
        ours="digits, 3 seeds",
    ),
    Row("epsilons", TIAN, "Tables 6, 7", "DirectPred for several ε, ρ and c_j", FULL, why=NO_STL),
    Row("imagenet", TIAN, "Table 9", "DirectPred rivals a predictor of two layers, 72.4 against 72.5 %", FULL, why=NO_STL),
    Row(
        "threshold", WANG, "Abstract", "weight decay discards features of high augmentation variance", ABSTRACT,
        "grassmann-ssl phase-directpred",
        (Check("features kept or dropped as predicted, trained", "arms:trained:as_predicted", "equal to", "arms:trained:features", "all"),
         Check("DirectPred", "arms:directpred:as_predicted", "equal to", "arms:directpred:features", "all"),
         Check("DirectCopy", "arms:directcopy:as_predicted", "equal to", "arms:directcopy:features", "all")),
        ours="features of four variances",
    ),
    Row("wang-tables", WANG, "Tables", UNREAD, UNREAD, why=f"{NO_STL}; the abstract's statement on DirectCopy is in the row of Table 8"),
    Row(
        "scalar", ESSER, "Claim (i)", "without a constraint the dynamics end in scalar representations: dimensional collapse", ABSTRACT,
        "grassmann-ssl width",
        (Check("effective rank of the outputs", "free:final_effective_rank", "at most", 1.01),
         Check("pairs whose cosine has the predicted sign", "free:sign_agreement", "at least", 1.0),
         Check("relative error of the slope of log σ₂/σ₁", "free:slope:relative_error", "at most", 0.02)),
        ours="digits",
    ),
    Row(
        "constraint", ESSER, "Claim (ii)", "orthonormal weights avoid that", ABSTRACT, "grassmann-ssl collapse",
        (Check("share of collapsed seeds, Grassmann", "cells:constraint=grassmann:collapse_probability", "equal to", 0),
         *(
             Check(f"free, {name}", f"cells:constraint=free,objective={name}:collapse_probability", "equal to", 1)
             for name in ("linear_contrastive", "squared_noncontrastive")
         )),
        ours="linear models, losses × noises",
    ),
    Row(
        "width", ESSER, "Claim (iii)", "on the Grassmannian the dynamics are exact and do not depend on the width", ABSTRACT,
        "grassmann-ssl width",
        (Check("difference between widths", "grassmann:max_difference_between_widths", "at most", 1e-3),
         Check("order of the error in the learning rate", "grassmann:order", "at least", 0.9),
         Check("difference between widths in the Euclidean metric", "stiefel:max_difference_between_widths", "at least", 0.1)),
        ours="digits, h from 4 to 64",
    ),
    Row(
        "ntk", ESSER, "Claim (iv)", "the infinite-width limit deviates from the tangent kernel of supervised models", ABSTRACT,
        "grassmann-ssl kernel-change",
        (Check("exponent of the width of the last layer's kernel change, supervised", "arms:supervised:last_layer:slope", "at most", -0.9),
         Check("the same, constrained", "arms:both:last_layer:slope", "at least", -0.1)),
        ours="two-layer networks, h from 64 to 1024",
    ),
    Row("esser-figures", ESSER, "Figures", UNREAD, UNREAD, why="theorem wording and settings are not readable here"),
    Row(
        "extent", OTHERS, "Stepwise feature learning in self-supervised learning (anonymous submission)",
        "two features of extents 9 and 1 are learned in the ratio of their extents", "settings read",
        "grassmann-ssl stepwise --data extent_bias --dim 2",
        (*STEP_TIMES, Check("mean step times before any draw, in standard errors", "a_priori:worst_deviation", "at most", 3)),
        ours="10 seeds",
    ),
    Row(
        "ntk-constant", OTHERS, "Fleissner et al. 2024 (arXiv 2411.11176)",
        "the tangent kernel of two-layer networks under Barlow Twins becomes constant as they grow wide", ABSTRACT, "grassmann-ssl ntk",
        tuple(
            Check(f"exponent of the width of its change, {start} start", f"{start}:kernel_change:exponent", "at most", -0.8)
            for start in ("grouped", "independent")
        ),
        ours="digits, h = 30, 120, 480",
    ),
    closed_form("jing", "Jing et al. 2022 (arXiv 2110.09348), Lemmas 1, 2 and two layers",
                "InfoNCE is the flow dW/dt = X W; noise beyond the signal, and depth, collapse dimensions", FULL,
                "tests/theory/test_dimensional_collapse.py"),
    closed_form("landscape", "HaoChen et al. 2021 (arXiv 2106.04156); Cabannes et al. 2023 (arXiv 2302.02774), Fig. 2; Ziyin et al. 2023 "
                "(arXiv 2210.00638)",
                "minima of spectral contrastive learning and VICReg are truncated spectra; three features take turns at penalties 1 and 2; "
                "weight decay collapses dimensions", "settings, code and abstracts read", "tests/theory/test_landscape.py"),
    closed_form("cosine", "Bao 2023 (arXiv 2309.16109)", "with the cosine loss a stable state that is not collapsed appears", ABSTRACT,
                "tests/theory/test_predictor_cosine.py"),
    closed_form("isoloss", "Halvagal et al. 2023 (arXiv 2212.04858)", 
                "eigenvalues act as learning rates of their modes, which IsoLoss removes", "code read",
                "tests/theory/test_predictor_direct.py"),
    closed_form("sigreg", "Balestriero and LeCun 2025, LeJEPA (arXiv 2511.08544)",
                f"of the dynamics of SIGReg: {UNREAD}", "losses and code read",
                "tests/theory/test_sigreg.py", read=False),
    closed_form("jepa", "Littwin et al. 2024 (arXiv 2407.03475)",
                "in latent space features of larger regression coefficient come first, the deeper the more so",
                "equations (7), (8) read, as `theory.jepa` cites them",
                "tests/theory/test_jepa.py"),
)  # fmt: skip
