"""Distillation as a typical tutorial writes it: PIL transforms image by image, a DataLoader, a live teacher."""

import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from job import Job, accuracy, load_images, load_model, parse_job, write_record
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, alpha: float, T: float) -> Tensor:
    """``(1 - alpha) * CE + alpha * T**2 * KL(teacher/T || student/T)``, in nats, the mean over the batch.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        labels: (N,) int64.
        alpha: in [0, 1], weight of the teacher's term.
        T: temperature.

    Returns:
        A scalar.
    """
    ce = F.cross_entropy(student_logits, labels)
    kl = F.kl_div(F.log_softmax(student_logits / T, dim=1), F.softmax(teacher_logits / T, dim=1), reduction="batchmean")
    return (1 - alpha) * ce + alpha * T**2 * kl


def train_epoch(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    optimizer: Optimizer,
    alpha: float,
    T: float,
) -> float:
    """One pass over the training images.

    Args:
        student: that learns.
        teacher: asked for every batch.
        batches: of inputs and labels.
        optimizer: over the student's parameters.
        alpha: weight of the teacher's term.
        T: temperature.

    Returns:
        The mean loss of the batches.
    """
    student.train()
    teacher.eval()
    losses = []
    for inputs, labels in batches:
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        loss = kd_loss(student(inputs), teacher_logits, labels, alpha=alpha, T=T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def main(job: Job) -> None:
    """Do the job and write its record.

    Args:
        job: as parsed.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    images = load_images(job.dataset, data_root=job.data_root, limit_train=job.limit_train, mean=job.mean, std=job.std)
    teacher = load_model(job.teacher_arch, job.teacher, num_classes=images.num_classes)
    student = load_model(job.arch, job.weights, num_classes=images.num_classes)
    optimizer = SGD(student.parameters(), lr=job.lr, momentum=job.momentum)
    batches = DataLoader(
        images.train,
        batch_size=job.batch_size,
        shuffle=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )
    seconds = []
    for epoch in range(job.epochs):
        start = time.perf_counter()
        loss = train_epoch(student, teacher, batches, optimizer=optimizer, alpha=job.alpha, T=job.T)
        seconds.append(time.perf_counter() - start)
        print(f"epoch {epoch + 1}/{job.epochs}, loss {loss:.4f}, {seconds[-1]:.1f} s", flush=True)
    write_record(
        job.output,
        num_images=len(images.train),
        seconds=seconds,
        accuracy=accuracy(student, images.test),
        packages=("torch", "torchvision"),
    )


if __name__ == "__main__":
    main(parse_job(__doc__))
