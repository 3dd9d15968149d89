"""The rows of methods on logits.

Defaults are those of their papers on CIFAR-100; where they differ by pair, those of resnet56 -> resnet20. Larger
weights were chosen for other pairs, with a smaller learning rate or a warm-up: at 0.1 they keep a student from
learning.
"""

from kdignite.methods.rows import Constant, Method, Parameter, Softening

ALPHA = Parameter(
    0.9, "weight of the teacher's term; 0 is the baseline, 1 ignores the labels", low=0, high=1, grid=(0.5, 0.9, 1.0)
)
CE_WEIGHT = Parameter(1.0, "weight of the cross-entropy with the labels; 0 leaves it out", low=0, minor=True)
STANDARDIZE = Parameter(
    False,
    "divide the centred logits of an image by their standard deviation, of student and teacher: only their shape is "
    "matched; it takes smaller T (for 10 classes 1 or 2)",
    minor=True,
)


def _temperature(default: float, *grid: float, of: tuple[str, ...], softest: str = "") -> Parameter:
    meaning = "temperature that softens both distributions; 1 leaves them as they are"
    return Parameter(default, meaning, above=0, high=1000, grid=grid, softens=Softening(of, softest=softest))


def _weight(default: float, of: str, *grid: float) -> Parameter:
    return Parameter(default, f"weight of {of}", low=0, grid=grid)


def _exponent(default: float) -> Parameter:
    meaning = "exponent of the teacher's probabilities, which are renormalized; 1 leaves them as they are"
    softens = Softening(("beta",), power=-1, softest="the student learns to be as uncertain, and little else")
    return Parameter(default, meaning, above=0, high=1, grid=(0.1, 0.3, 0.5), softens=softens)


LOGIT_METHODS = {
    "kd": Method(
        "kdignite.methods.logits:kd",
        idea="match the teacher's softened class probabilities",
        equation="(1 - alpha) * ce + alpha * T^2 * KL(teacher/T || student/T)",
        parameters={
            "alpha": ALPHA,
            "T": _temperature(4.0, 1.0, 2.0, 4.0, 8.0, of=("alpha",)),
            "standardize": STANDARDIZE,
        },
        source="Hinton, Vinyals & Dean 2015, arXiv:1503.02531; --standardize: Sun et al. 2024, arXiv:2403.01427",
        constant=(Constant("kd", classes=2, when="standardize"),),
        published="alpha 0.9, T 4 on CIFAR-100; alpha 0.5, T 1 on ImageNet; with --standardize T 2 and the weights 0.1 "
        "and 9, which are alpha 0.989 and 9.1 times the learning rate",
    ),
    "dkd": Method(
        "kdignite.methods.labels:dkd",
        idea="weight what a teacher says of the right class and of the other classes apart",
        equation="ce_weight * ce + T^2 * (alpha * KL(right or not) + beta * KL(which of the others)), both KL of "
        "teacher/T || student/T",
        parameters={
            "alpha": _weight(1.0, "the probability of the right class against all others"),
            "beta": _weight(2.0, "the probabilities among the other classes", 0.5, 1.0, 2.0, 8.0),
            "T": _temperature(4.0, 1.0, 2.0, 4.0, of=("alpha", "beta")),
            "ce_weight": CE_WEIGHT,
            "standardize": STANDARDIZE,
        },
        one_class=True,
        source="Zhao et al. 2022, arXiv:2203.08679; --standardize: Sun et al. 2024, arXiv:2403.01427",
        constant=(Constant("nckd", classes=2), Constant("tckd", classes=2, when="standardize")),
        published="alpha 1, T 4, beta 2, 6 or 8 by pair on CIFAR-100; T 1, beta 0.5 or 2 on ImageNet; with "
        "--standardize T 2, alpha and beta 9 times as large. The authors' code raises the weight of both terms over 20 "
        "epochs; here it is constant, since a method does not see the epoch",
    ),
    "dist": Method(
        "kdignite.methods.logits:dist",
        idea="match how the teacher's probabilities correlate over classes and over images, not their values",
        equation="ce_weight * ce + 2 * tau^2 * (beta * (1 - r over classes) + gamma * (1 - r over images)), r: "
        "Pearson's correlation of the probabilities of student/tau and teacher/tau",
        parameters={
            "beta": _weight(1.0, "the correlation over the classes of an image"),
            "gamma": _weight(1.0, "the correlation over the images of a batch", 0.5, 1.0, 2.0),
            "tau": _temperature(
                4.0,
                *(1.0, 2.0, 4.0),
                of=("beta", "gamma"),
                softest="r is close to the correlation of the logits, and a higher tau changes little but the weight",
            ),
            "ce_weight": CE_WEIGHT,
        },
        source="Huang et al. 2022, arXiv:2205.10536",
        constant=(Constant("inter", classes=2), Constant("intra", images=2)),
        published="beta 1, gamma 1, tau 4 on CIFAR-100, tau 1 on ImageNet",
    ),
    "nkd": Method(
        "kdignite.methods.labels:nkd",
        idea="match the probability of the right class, and the others renormalized to 1",
        equation="ce_weight * ce - t_y * log s_y - gamma * T^2 * sum over the other classes of t * log s, "
        "renormalized, t and s: probabilities of teacher/T and student/T, of the right class y at T = 1",
        parameters={
            "gamma": _weight(3.5, "the probabilities among the other classes", 0.5, 1.5, 3.5),
            "T": _temperature(3.0, 1.0, 2.0, 3.0, of=("gamma",)),
            "ce_weight": CE_WEIGHT,
        },
        one_class=True,
        source="Yang et al. 2023, arXiv:2303.13005",
        constant=(Constant("nontarget", classes=2),),
        published="gamma 3.5, T 3 on CIFAR-100; gamma 1.5, T 1 on ImageNet",
    ),
    "wsld": Method(
        "kdignite.methods.labels:wsld",
        idea="trust the teacher less on images whose label the student already fits better than it",
        equation="ce_weight * ce - alpha * T^2 * w * sum_c t * log s, t and s: probabilities of teacher/T and "
        "student/T, w = 1 - exp(-ce / teacher's ce) of each image",
        parameters={
            "alpha": _weight(2.25, "the teacher's term", 0.5, 1.0, 2.25, 4.0),
            "T": _temperature(4.0, 2.0, 4.0, 8.0, of=("alpha",)),
            "ce_weight": CE_WEIGHT,
        },
        one_class=True,
        source="Zhou et al. 2021, arXiv:2102.00650",
        published="alpha 2.25, T 4 on CIFAR-100; alpha 2.5, T 2 on ImageNet",
    ),
    "ttm": Method(
        "kdignite.methods.logits:ttm",
        idea="soften the teacher alone",
        equation="ce_weight * ce + beta * KL(teacher^gamma || student), teacher^gamma renormalized",
        parameters={
            "gamma": _exponent(0.3),
            "beta": _weight(7.0, "the teacher's term", 1.0, 3.0, 7.0, 20.0),
            "ce_weight": CE_WEIGHT,
        },
        source="Zheng & Yang 2024, arXiv:2402.11148",
        published="gamma and beta by pair on CIFAR-100: 0.1 and 100, 0.2 and 20, 0.3 and 7",
    ),
    "wttm": Method(
        "kdignite.methods.logits:wttm",
        idea="soften the teacher alone, and weight images by how evenly it spreads its probability",
        equation="ce_weight * ce + beta * U * KL(teacher^gamma || student), U = sum_c teacher_c^gamma of each image",
        parameters={
            "gamma": _exponent(0.3),
            "beta": _weight(1.5, "the teacher's term", 0.5, 1.5, 3.0, 5.0),
            "ce_weight": CE_WEIGHT,
        },
        source="Zheng & Yang 2024, arXiv:2402.11148",
        published="gamma and beta by pair on CIFAR-100: 0.1 and 3, 0.2 and 5, 0.3 and 1.5; 0.8 and 1.6 on ImageNet",
    ),
    "logit_mse": Method(
        "kdignite.methods.logits:logit_mse",
        idea="match the centred logits, which is kd at a large temperature",
        equation="(1 - alpha) * ce + alpha * sum_c (student - teacher)^2 / (2 C), both less their mean over classes",
        parameters={"alpha": ALPHA},
        source="Ba & Caruana 2014, arXiv:1312.6184; Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.1",
    ),
}
