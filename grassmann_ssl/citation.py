"""BibTeX of what a run used: the papers of its parts, geoopt, torch, and this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.experiments.encoders.directpred_table import DirectPredTableConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.predictors import PREDICTORS
from grassmann_ssl.objectives.registry import REGISTRY
from grassmann_ssl.optim.table import OPTIMIZERS, RIEMANNIAN
from grassmann_ssl.registry import Registry
from grassmann_ssl.runs import Outcome

SOURCED: dict[str, Registry[Any]] = {
    "objective": REGISTRY, "constraint": CONSTRAINTS, "predictor": PREDICTORS, "optimizer": OPTIMIZERS,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One of the literature: `found` is what sources say of it, its arXiv number or another mark; `url` for what is not on arXiv."""

    found: str
    year: int
    authors: str
    title: str
    url: str = ""

    @property
    def key(self) -> str:
        """Such as he2020momentum: the first author, the year, and the first long word of the title."""
        first = self.authors.split(" and ")[0].split()[-1]
        word = next(word for word in self.title.replace(":", " ").replace("-", " ").split() if len(word) > 4)
        return f"{first}{self.year}{word}".lower().replace("é", "e")

    def bibtex(self, version: str | None = None) -> str:
        """The entry as text."""
        place = f"url = {{{self.url}}}" if self.url else f"eprint = {{{self.found}}},\n  archivePrefix = {{arXiv}}"
        note = f",\n  note = {{version {version}}}" if version else ""
        return (
            f"@misc{{{self.key},\n  title = {{{{{self.title}}}}},\n  author = {{{self.authors}}},\n  year = {{{self.year}}},\n"
            f"  {place}{note}\n}}"
        )


GEOOPT = Entry(
    "2005.02819",
    2020,
    "Max Kochurov and Rasul Karimov and Serge Kozlukov",
    "Geoopt: Riemannian Optimization in PyTorch",
)
TORCH = Entry(
    "1912.01703", 2019,
    "Adam Paszke and Sam Gross and Francisco Massa and Adam Lerer and James Bradbury and Gregory Chanan and Trevor Killeen and Zeming Lin "
    "and Natalia Gimelshein and Luca Antiga and Alban Desmaison and Andreas Köpf and Edward Yang and Zach DeVito and Martin Raison and "
    "Alykhan Tejani and Sasank Chilamkurthy and Benoit Steiner and Lu Fang and Junjie Bai and Soumith Chintala",
    "PyTorch: An Imperative Style, High-Performance Deep Learning Library",
)  # fmt: skip
LITERATURE = (
    GEOOPT,
    TORCH,
    Entry("physics/9806030", 1998, "Alan Edelman and Tomás A. Arias and Steven T. Smith",
          "The Geometry of Algorithms with Orthogonality Constraints"),
    Entry("1609.07093", 2016, "Andrew Brock and Theodore Lim and J. M. Ritchie and Nick Weston",
          "Neural Photo Editing with Introspective Adversarial Networks"),
    Entry("1708.03888", 2017, "Yang You and Igor Gitman and Boris Ginsburg", "Large Batch Training of Convolutional Networks"),
    Entry("1807.03748", 2018, "Aaron van den Oord and Yazhe Li and Oriol Vinyals",
          "Representation Learning with Contrastive Predictive Coding"),
    Entry("1810.00760", 2019, "Gary Bécigneul and Octavian-Eugen Ganea", "Riemannian Adaptive Optimization Methods"),
    Entry("1909.09501", 2019, "Mario Lezcano-Casado", "Trivializations for Gradient-Based Optimization on Manifolds"),
    Entry("1911.05722", 2020, "Kaiming He and Haoqi Fan and Yuxin Wu and Saining Xie and Ross Girshick",
          "Momentum Contrast for Unsupervised Visual Representation Learning"),
    Entry("2002.05709", 2020, "Ting Chen and Simon Kornblith and Mohammad Norouzi and Geoffrey Hinton",
          "A Simple Framework for Contrastive Learning of Visual Representations"),
    Entry("2005.10242", 2020, "Tongzhou Wang and Phillip Isola",
          "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere"),
    Entry("2006.07733", 2020,
          "Jean-Bastien Grill and Florian Strub and Florent Altché and Corentin Tallec and Pierre H. Richemond and Elena Buchatskaya and "
          "Carl Doersch and Bernardo Avila Pires and Zhaohan Daniel Guo and Mohammad Gheshlaghi Azar and Bilal Piot and Koray Kavukcuoglu "
          "and Rémi Munos and Michal Valko",
          "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning"),
    Entry("2006.09882", 2020,
          "Mathilde Caron and Ishan Misra and Julien Mairal and Priya Goyal and Piotr Bojanowski and Armand Joulin",
          "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"),
    Entry("2007.06346", 2021, "Aleksandr Ermolov and Aliaksandr Siarohin and Enver Sangineto and Nicu Sebe",
          "Whitening for Self-Supervised Representation Learning"),
    Entry("2011.10566", 2021, "Xinlei Chen and Kaiming He", "Exploring Simple Siamese Representation Learning"),
    Entry("2102.06810", 2021, "Yuandong Tian and Xinlei Chen and Surya Ganguli",
          "Understanding Self-Supervised Learning Dynamics without Contrastive Pairs"),
    Entry("2103.03230", 2021, "Jure Zbontar and Li Jing and Ishan Misra and Yann LeCun and Stéphane Deny",
          "Barlow Twins: Self-Supervised Learning via Redundancy Reduction"),
    Entry("2104.14294", 2021,
          "Mathilde Caron and Hugo Touvron and Ishan Misra and Hervé Jégou and Julien Mairal and Piotr Bojanowski and Armand Joulin",
          "Emerging Properties in Self-Supervised Vision Transformers"),
    Entry("2104.14548", 2021,
          "Debidatta Dwibedi and Yusuf Aytar and Jonathan Tompson and Pierre Sermanet and Andrew Zisserman",
          "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations"),
    Entry("2105.04906", 2022, "Adrien Bardes and Jean Ponce and Yann LeCun",
          "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning"),
    Entry("2106.04156", 2021, "Jeff Z. HaoChen and Colin Wei and Adrien Gaidon and Tengyu Ma",
          "Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss"),
    Entry("2109.00783", 2021, "Daesoo Lee and Erlend Aune", "Computer Vision Self-supervised Learning Methods on Time Series"),
    Entry("2110.04947", 2021, "Xiang Wang and Xinlei Chen and Simon S. Du and Yuandong Tian",
          "Towards Demystifying Representation Learning with Non-contrastive Self-supervision"),
    Entry("2110.06848", 2021,
          "Chun-Hsiao Yeh and Cheng-Yao Hong and Yen-Chi Hsu and Tyng-Luh Liu and Yubei Chen and Yann LeCun",
          "Decoupled Contrastive Learning"),
    Entry("2110.09348", 2022, "Li Jing and Pascal Vincent and Yann LeCun and Yuandong Tian",
          "Understanding Dimensional Collapse in Contrastive Self-supervised Learning"),
    Entry("2206.10698", 2022,
          "Jiachen Zhu and Rafael M. Moraes and Serkan Karakulak and Vlad Sobol and Alfredo Canziani and Yann LeCun",
          "TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual Representation Learning"),
    Entry("2212.04858", 2023, "Manu Srinath Halvagal and Axel Laborieux and Friedemann Zenke",
          "Implicit variance regularization in non-contrastive SSL"),
    Entry("2302.02774", 2023,
          "Vivien Cabannes and Bobak T. Kiani and Randall Balestriero and Yann LeCun and Alberto Bietti",
          "The SSL Interplay: Augmentations, Inductive Bias, and Generalization"),
    Entry("2303.03307", 2023, "Thomas Yerxa and Yilun Kuang and Eero Simoncelli and SueYeon Chung",
          "Learning Efficient Coding of Natural Images with Maximum Manifold Capacity Representations"),
    Entry("2303.15438", 2023,
          "James B. Simon and Maksis Knutins and Liu Ziyin and Daniel Geisz and Abraham J. Fetterman and Joshua Albrecht",
          "On the Stepwise Nature of Self-Supervised Learning"),
    Entry("2309.02011", 2023, "Pascal Esser and Satyaki Mukherjee and Debarghya Ghoshdastidar",
          "Representation Learning Dynamics of Self-Supervised Models"),
    Entry("2310.02903", 2024, "Oscar Skean and Aayush Dhakal and Nathan Jacobs and Luis Gonzalo Sanchez Giraldo",
          "FroSSL: Frobenius Norm Minimization for Efficient Multiview Self-Supervised Learning"),
    Entry("2511.08544", 2025, "Randall Balestriero and Yann LeCun",
          "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"),
    Entry("Jordan et al. 2024, Muon", 2024,
          "Keller Jordan and Yuchen Jin and Vlado Boza and Jiacheng You and Franz Cesista and Laker Newhouse and Jeremy Bernstein",
          "Muon: An optimizer for hidden layers in neural networks", url="https://kellerjordan.github.io/posts/muon/"),
)  # fmt: skip
OWN = ("", "this project", "your own")  # sources that are no papers
FREE = ("none", "penalty", "parametrization")  # constraints under which sgd and adam are torch's own


def cited(source: str) -> list[Entry]:
    """What a declared source names."""
    return [entry for entry in LITERATURE if entry.found in source]


def cite(outcome: Outcome) -> str:
    """BibTeX, as text, of what a run used: the papers of its objective, constraint, predictor and optimizer, geoopt, torch, this package.

    Of parts of your own nothing is known, and nothing is said. Versions are those of the run.
    """
    record = outcome.record
    used = {entry: None for source in _sources(record) for entry in cited(source)}
    used |= {GEOOPT: None, TORCH: None}
    versions = record.get("versions", {})
    tools = {GEOOPT: versions.get("geoopt"), TORCH: versions.get("torch")}
    version = versions.get("grassmann_ssl")
    note = f",\n  note = {{version {version}}}" if version else ""
    name = r"grassmann\_ssl"
    own = f"@misc{{grassmann_ssl,\n  title = {{{{{name}}}}},\n  author = {{{{the {name} developers}}}}{note}\n}}"
    return "\n\n".join([*(entry.bibtex(tools.get(entry)) for entry in used), own]) + "\n"


def _sources(record: dict[str, Any]) -> Iterator[str]:
    """The sources of the parts that have a name in the settings of a run, or of one of its arms."""
    config = record["config"]
    arms = []
    if record["experiment"] == CompareEncodersConfig.NAME:
        arms = [f"{config.get('common', '')},{arm}" for arm in config["arms"]]  # an arm's own win
    if record["experiment"] == DirectPredTableConfig.NAME:
        arms = [one["arm"] for one in record["arms"]]
    for settings in map(_of_arm, arms) if arms else [config]:
        for setting, registry in SOURCED.items():
            several = (*settings.get(f"{setting}s", ()), *settings.get("arms", ()))  # of `compare` and `collapse`
            for named in (settings.get(setting), settings.get("loss"), *several):
                name = named.partition(":")[0] if isinstance(named, str) else named
                if setting not in record.get("own", ()) and name in registry:
                    source = registry[name].source
                    if source != RIEMANNIAN or settings.get("constraint") not in FREE:
                        yield source


def _of_arm(arm: str) -> dict[str, Any]:
    """The settings of an arm of `compare-encoders`, NAME=VALUE,... over those of `train`."""
    usual = {setting: getattr(TrainConfig, setting) for setting in SOURCED}
    return usual | {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in arm.split(","))}
