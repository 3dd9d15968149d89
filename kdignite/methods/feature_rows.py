"""The rows of methods on features, with the weights that RepDistiller has for CIFAR-100."""

from kdignite.methods.rows import Constant, Method, Parameter, Softening

# `kd` beside a method on features; with alpha 0, as in the papers, there is none
KD = {
    "alpha": Parameter(
        0.0, "weight of kd beside the features, which the labels lose; 0 leaves kd out", low=0, high=1, minor=True
    ),
    "T": Parameter(
        4.0,
        "temperature of kd beside the features, with --alpha",
        above=0,
        high=1000,
        minor=True,
        softens=Softening(("alpha",)),
    ),
}
BESIDE = "(1 - alpha) * ce + alpha * kd + "
LATE, MIDDLE, MAPS, MAPS_AND_LAST = (3,), (1,), (0, 1, 2), (0, 1, 3)  # of the layers in a model's row


def _weight(default: float, of: str = "the teacher's features") -> Parameter:
    return Parameter(default, f"weight of {of}", low=0, grid=(default / 100, default / 10, default))


FEATURE_METHODS = {
    "fitnet": Method(
        "kdignite.methods.features:fitnet",
        idea="fit a map of the teacher with a map of the student, through a regressor that is learnt beside it",
        equation=f"{BESIDE}weight * mean (R(student) - teacher)^2",
        parameters={"weight": _weight(100.0), **KD},
        source="Romero et al. 2014, arXiv:1412.6550",
        needs="features",
        init="kdignite.methods.projectors:regressors",
        layers=MIDDLE,
        pixels=1,
        published="weight 100, second of three maps; here in one stage, as in RepDistiller, not in two as in the paper",
    ),
    "at": Method(
        "kdignite.methods.features:at",
        idea="match where the maps of the teacher have their energy",
        equation=f"{BESIDE}weight * sum over layers of mean (A(student) - A(teacher))^2, A = unit vector of mean_c f^2",
        parameters={"weight": _weight(1000.0), **KD},
        source="Zagoruyko & Komodakis 2016, arXiv:1612.03928",
        needs="features",
        layers=MAPS,
        pixels=2,  # the unit vector of one pixel is 1
        published="weight 1000, as in the authors' code; their paper sums over channels and takes the norm unsquared",
    ),
    "sp": Method(
        "kdignite.methods.relations:sp",
        idea="match which images of a batch look alike",
        equation=f"{BESIDE}weight * |G(student) - G(teacher)|^2 / B^2, G = rows of f f^T as unit vectors",
        parameters={"weight": _weight(3000.0), **KD},
        source="Tung & Mori 2019, arXiv:1907.09682",
        needs="features",
        layers=LATE,
        constant=(Constant("sp", images=1),),
        published="weight 3000, last map",
    ),
    "pkt": Method(
        "kdignite.methods.relations:pkt",
        idea="match the distribution of each image over its neighbours in a batch",
        equation=f"{BESIDE}weight * mean K(teacher) log(K(teacher) / K(student)), K = rows of (cosine + 1) / 2, sum 1",
        parameters={"weight": _weight(30000.0), **KD},
        source="Passalis & Tefas 2018, arXiv:1803.10837",
        needs="features",
        layers=LATE,
        constant=(Constant("pkt", images=1),),
        published="weight 30000, pooled last map",
    ),
    "rkd": Method(
        "kdignite.methods.relations:rkd",
        idea="match the distances of pairs and the angles of triplets in a batch",
        equation=f"{BESIDE}weight * distance + weight_angle * angle, smooth L1 of distances / their mean, of cosines",
        parameters={
            "weight": _weight(25.0, "the distances of pairs"),
            "weight_angle": _weight(50.0, "the angles of triplets"),
            **KD,
        },
        source="Park et al. 2019, arXiv:1904.05068",
        needs="features",
        layers=LATE,
        constant=(Constant("distance", images=2), Constant("angle", images=2)),
        published="weights 25 and 50 in RepDistiller, 1 and 2 in the authors' metric learning",
    ),
    "vid": Method(
        "kdignite.methods.features:vid",
        idea="make the maps of the teacher likely given those of the student, with a variance learnt for each channel",
        equation=f"{BESIDE}weight * sum over layers of mean ((R(student) - teacher)^2 / v + log v) / 2",
        parameters={"weight": _weight(1.0), **KD},
        source="Ahn et al. 2019, arXiv:1904.05835",
        needs="features",
        init="kdignite.methods.projectors:distributions",
        layers=MAPS,
        pixels=1,
        published="weight 1; the term may be negative, and is not 0 where the maps are equal",
    ),
    "reviewkd": Method(
        "kdignite.methods.features:reviewkd",
        idea="fit each map of the teacher with a map of the student and all deeper ones, fused beside it",
        equation=f"{BESIDE}weight * sum over layers, and the last one pooled, of H(R(student), teacher), H: mean "
        "squares of the maps, and of both pooled to 4, 2 and 1 pixels a side",
        parameters={"weight": _weight(0.6), **KD},
        source="Chen et al. 2021, arXiv:2104.09044",
        needs="features",
        init="kdignite.methods.projectors:reviews",
        layers=MAPS_AND_LAST,
        pixels=1,
        published="weight 0.6, 1, 5 or 8 by pair on CIFAR-100, raised over 20 epochs, of the teacher's maps before "
        "ReLU; here it is constant, since a method does not see the epoch, and the layers are those that are named",
    ),
}
