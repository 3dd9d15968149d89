"""How much a teacher's soft targets add to the labels, and their share of the gradient."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.errors import UserError
from kdignite.losses import check_alpha, check_temperature
from kdignite.methods.rows import Temperature

NEARLY_HARD = 0.99  # mean top probability
NEARLY_UNIFORM = 0.95  # mean entropy as a share of log C
UNDERCONFIDENT = 0.05  # accuracy less mean top probability; without smoothing networks are more sure than right
SOFTEST = (
    "the loss is close to the squared distance of the logits, and a higher T changes little (Hinton et al. 2015, "
    "arXiv:1503.02531, 2.1)"
)


class TargetStatistics(NamedTuple):
    """Means over the images of softmax(teacher / T) at one T."""

    top: float  # largest probability
    entropy: float  # nats
    entropy_share: float  # of log C
    true: float  # probability of the true class


class SoftTargets(NamedTuple):
    """Soft targets at the temperature of the training and at 1, and their gradient for an untrained student."""

    soft: TargetStatistics
    plain: TargetStatistics
    kd_share: float  # of the gradient, in [0, 1]
    dark: float  # of the soft term's gradient, beyond a smoothed label, in [0, 1]


def soft_target_statistics(logits: Tensor, labels: Tensor, *, alpha: float, T: float) -> SoftTargets:
    """How soft a teacher's targets are, and their gradient for a student of equal logits.

    The loss is that of `kdignite.losses.kd_loss`. With u = 1/C, the student's probability of every class,
    ``p = softmax(logits / T)`` and y the one-hot label, the gradient to the student's logits of an image is the sum of
    ``ce = (1 - alpha) * (u - y)`` and ``kd = alpha * T * (u - p)``: T**2 of the loss, 1/T of the softmax's argument.
    ``kd_share = mean |kd| / (mean |kd| + mean |ce|)``, with Euclidean norms.

    What the soft term adds to a smoothed label: let q be the smoothed one-hot label of the teacher's top class with
    the same top probability m, so ``(1 - m) / (C - 1)`` for every other class. ``u - q`` is constant off the top class,
    where ``q - p`` sums to 0 and is 0 on it: they are orthogonal, of all smoothings of that label q is nearest to p,
    and ``|u - p|^2 = |u - q|^2 + |q - p|^2``. Hence ``dark = mean |q - p| / mean |u - p|`` is in [0, 1]: 0 if the
    targets are smoothed labels, and always for two classes. Both shares: 0 / 0 := 0.

    Source: the gradient: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, equation 2. A teacher as label smoothing plus
    relations between classes: Tang et al. 2020, arXiv:2002.03532; the split here is our own.
    """
    _check(logits, labels, alpha=alpha, T=T)
    scores = logits.detach().double()
    p = torch.softmax(scores / T, dim=1)
    uniform = torch.full_like(p, 1 / p.shape[1])
    away = _mean_norm(uniform - p)
    kd = alpha * T * away
    ce = (1 - alpha) * math.sqrt(1 - 1 / p.shape[1])  # |u - y| is the same for every label
    return SoftTargets(
        soft=_targets(scores / T, labels),
        plain=_targets(scores, labels),
        kd_share=_share(kd, kd + ce),
        dark=_share(_mean_norm(_beyond_smoothing(p)), away),
    )


def soft_target_lines(measured: SoftTargets, *, alpha: float, T: float, label_smoothing: float | None) -> list[str]:
    """A teacher's targets and training as lines, with warnings where the targets add little."""
    soft = measured.soft
    lines = [
        *(_target_line(targets, T=one) for one, targets in {T: soft, 1.0: measured.plain}.items()),
        f"at the start, with alpha={alpha:g}, {measured.kd_share:.1%} of the gradient is the teacher's term; "
        f"what differs among the wrong classes is {measured.dark:.1%} of that term",
        _training_line(label_smoothing),
    ]
    if soft.top > NEARLY_HARD:
        lines.append(f"warning: at T={T:g} the targets are little more than labels (top class {soft.top:.2%}): raise T")
    if soft.entropy_share > NEARLY_UNIFORM:
        lines.append(f"warning: {_uniform(soft, _of_kd(T))}")
    if label_smoothing is not None and (warning := label_smoothing_warning(label_smoothing, _of_kd(T))):
        lines.append(f"warning: {warning}")
    return lines


def uniform_warning(logits: Tensor, labels: Tensor, temperature: Temperature) -> str:
    """A warning where softmax(logits / T) of a teacher is nearly uniform in the mean over images, else empty.

    Args:
        logits: (N, C) of the teacher, finite, as the method compares them.
        labels: (N,) int64.
        temperature: of the method.
    """
    found = _targets(logits.double() / temperature.T, labels)
    return _uniform(found, temperature) if found.entropy_share > NEARLY_UNIFORM else ""


def label_smoothing_warning(label_smoothing: float, temperature: Temperature) -> str:
    """A warning where a teacher's label smoothing makes a high temperature useless, else empty.

    Source: Chandrasegaran et al. 2022, arXiv:2206.14532.
    """
    known = f"the teacher was trained with label smoothing {label_smoothing:g}"
    return _blurred(known, temperature) if label_smoothing > 0 else ""


def underconfidence_warning(logits: Tensor, labels: Tensor, temperature: Temperature) -> str:
    """The same of a teacher trained elsewhere, whose probabilities (N, C) are those of label smoothing, else empty.

    Label smoothing keeps the top probability below 1: a network is then less sure than it is right (Mueller et al.
    2019, arXiv:1906.02629).
    """
    top, accuracy = _targets(logits.double(), labels).top, float((logits.argmax(1) == labels).double().mean())
    seen = (
        f"the teacher is right in {accuracy:.1%} and gives its top class {top:.1%}, as after label smoothing or mixup"
    )
    return _blurred(seen, temperature) if accuracy - top > UNDERCONFIDENT else ""


def _check(logits: Tensor, labels: Tensor, *, alpha: float, T: float) -> None:
    check_alpha(alpha)
    check_temperature(T=T)
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or len(labels) < 1 or logits.shape[1] < 2:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise UserError(f"expected logits (N, C) and labels (N,) with N >= 1 and C >= 2, not {shapes}")
    if not bool(torch.isfinite(logits).all()):
        raise UserError("expected finite logits of the teacher, got NaN or infinity")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise UserError(f"labels must be in [0, {logits.shape[1]}), not in [{int(labels.min())}, {int(labels.max())}]")


def _targets(scores: Tensor, labels: Tensor) -> TargetStatistics:
    log_p = torch.log_softmax(scores, dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=1).mean().item()
    return TargetStatistics(
        top=p.amax(dim=1).mean().item(),
        entropy=entropy,
        entropy_share=entropy / math.log(p.shape[1]),
        true=p.gather(1, labels[:, None]).mean().item(),
    )


def _beyond_smoothing(p: Tensor) -> Tensor:
    """p - q: for every class but the top one its difference from their mean, 0 for the top one."""
    top = p.argmax(dim=1, keepdim=True)
    rest = p.scatter(1, top, 0.0)  # not 1 - m, which has no digits left for a confident teacher
    return (rest - rest.sum(dim=1, keepdim=True) / (p.shape[1] - 1)).scatter(1, top, 0.0)


def _mean_norm(rows: Tensor) -> float:
    return float(rows.norm(dim=1).mean())


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _target_line(targets: TargetStatistics, *, T: float) -> str:
    return (
        f"targets at T={T:g}: top class {targets.top:.1%}, true class {targets.true:.1%}, "
        f"entropy {targets.entropy:.3g} nats ({targets.entropy_share:.1%} of log C)"
    )


def _of_kd(T: float) -> Temperature:
    return Temperature("T", T, T)


def _uniform(found: TargetStatistics, temperature: Temperature) -> str:
    return (
        f"at {temperature.flag}={temperature.given:g} the targets are nearly uniform ({found.entropy_share:.1%} of the "
        f"largest entropy): {temperature.softest or SOFTEST}"
    )


def _blurred(why: str, temperature: Temperature) -> str:
    if temperature.T <= 1:
        return ""
    return (
        f"{why}, which blurs its logits of the other classes: a {temperature.flag} near 1 is better (Chandrasegaran et "
        "al. 2022, arXiv:2206.14532)"
    )


def _training_line(label_smoothing: float | None) -> str:
    if label_smoothing is None:
        return "trained elsewhere: with which label smoothing, its file does not say"
    return f"trained with label smoothing {label_smoothing:g}" if label_smoothing else "trained without label smoothing"
