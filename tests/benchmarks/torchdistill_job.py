"""The job by torchdistill: its configuration, `DistillationBox` and `KDLoss`, driven as its example drives them."""

import time
from typing import Any

import torch
from job import Job, accuracy, load_images, load_model, parse_job, write_record
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import DistillationBox, get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue, set_basic_log_config

TRAIN = "train"  # name of the training images in the configuration
LOG_FREQ = 100  # steps between two lines of the log, as in its configurations for CIFAR-10
WHOLE_MODEL = "."
CPU = torch.device("cpu")


def train_config(job: Job) -> dict[str, Any]:
    """What the ``train`` part of one of its YAML files would hold.

    Args:
        job: as parsed.

    Returns:
        The configuration of one stage.
    """
    return {
        "log_freq": LOG_FREQ,
        "num_epochs": job.epochs,
        "train_data_loader": {
            "dataset_id": TRAIN,
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {
                "batch_size": job.batch_size,
                "num_workers": job.workers,
                "persistent_workers": job.workers > 0,
            },
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},  # that is also its no_grad
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": job.lr, "momentum": job.momentum}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": _kd_loss(job), "weight": 1.0}}},
        },
    }


def train_epoch(box: DistillationBox, epoch: int) -> None:
    """One pass over the training images.

    Args:
        box: of student and teacher.
        epoch: from 0.
    """
    box.pre_epoch_process(epoch=epoch)
    log = MetricLogger(delimiter="  ")
    log.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    for inputs, labels, extra in log.log_every(box.train_data_loader, LOG_FREQ, f"epoch {epoch + 1}"):
        loss = box.forward_process(inputs, labels, extra)
        box.post_forward_process(loss=loss)
        log.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
    box.post_epoch_process()


def main(job: Job) -> None:
    """Do the job and write its record.

    Args:
        job: as parsed.
    """
    set_basic_log_config()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    images = load_images(job.dataset, data_root=job.data_root, limit_train=job.limit_train, mean=job.mean, std=job.std)
    teacher = load_model(job.teacher_arch, job.teacher, num_classes=images.num_classes)
    student = load_model(job.arch, job.weights, num_classes=images.num_classes)
    box = get_distillation_box(
        teacher, student, {TRAIN: images.train}, train_config(job), CPU, device_ids=None, distributed=False, lr_factor=1
    )
    teacher.eval()  # torchdistill leaves the teacher in train mode, where its BatchNorm would drift
    seconds = []
    for epoch in range(job.epochs):
        start = time.perf_counter()
        train_epoch(box, epoch)
        seconds.append(time.perf_counter() - start)
    assert not teacher.training
    write_record(
        job.output,
        num_images=len(images.train),
        seconds=seconds,
        accuracy=accuracy(student, images.test),
        packages=("torch", "torchvision", "torchdistill"),
    )


def _kd_loss(job: Job) -> dict[str, Any]:
    """Its `KDLoss`, whose alpha weights the labels and whose beta weights the teacher."""
    return {
        "key": "KDLoss",
        "kwargs": {
            **{f"{who}_module_path": WHOLE_MODEL for who in ("student", "teacher")},
            **{f"{who}_module_io": "output" for who in ("student", "teacher")},
            "temperature": job.T,
            "alpha": 1 - job.alpha,
            "beta": job.alpha,
            "reduction": "batchmean",
        },
    }


if __name__ == "__main__":
    main(parse_job(__doc__))
