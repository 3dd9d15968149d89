"""A loop that does nothing but train: no views, no table, no sums, no handlers, and nothing to wait for."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from checks.context import Context
from kdignite.losses import cross_entropy, kd_loss
from kdignite.precision import autocast
from kdignite.training.capturing import cuda_graph
from kdignite.training.spec import RunSpec

ALPHA, TEMPERATURE = 0.9, 4.0
Update = Callable[[Tensor, Tensor, Tensor], Tensor]
Ready = list[tuple[Tensor, Tensor, Tensor]]


def bare_rate(
    context: Context,
    arch: str,
    batch_size: int,
    amp: str,
    *,
    captured: bool,
    teacher_record: bool = True,
    rounds: int = 3,
) -> float:
    """Images a second of the fastest round; captured: by the function that the product uses too."""
    run = context.run("baseline", arch=arch, batch_size=batch_size, amp=amp, graph="off")
    count = 4 if context.tiny else max(40, 20_000 // batch_size)
    ready = ready_batches(run, count)
    run.model.network.train()
    update = bare_update(run, amp, teacher_record=teacher_record)
    if captured:
        update = captured_update(context, update, ready[0])

    def once() -> None:
        for images, labels, teacher_logits in ready:
            update(images, labels, teacher_logits)

    once()
    return len(ready) * batch_size / min(context.timed(once) for _ in range(1 if context.tiny else rounds))


def ready_batches(run: RunSpec, count: int) -> Ready:
    """Full batches on the device: what the model gets, labels, logits of a teacher."""
    num_classes = len(run.data.source.classes)
    generator = torch.Generator().manual_seed(0)
    ready = [
        (
            run.model.prepare(batch.images),
            batch.labels,
            torch.randn(len(batch.labels), num_classes, generator=generator).to(run.device),
        )
        for batch in islice(run.batches(0, 0), count)
        if len(batch.labels) == run.config.batch_size
    ]
    assert ready, "there is no full batch"
    return ready


def bare_update(run: RunSpec, amp: str, *, teacher_record: bool) -> Update:
    """Forward pass, loss, backward pass, new weights."""
    model, optimizer = run.model.network, run.optimizer

    def update(images: Tensor, labels: Tensor, teacher_logits: Tensor) -> Tensor:
        with autocast(run.device.type, amp):
            logits = model(images)
        if teacher_record:
            loss = kd_loss(logits.float(), teacher_logits, labels, alpha=ALPHA, T=TEMPERATURE).loss
        else:
            loss = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def captured_update(context: Context, update: Update, inputs: tuple[Tensor, Tensor, Tensor]) -> Update:
    """The same from a graph, which reads its inputs from fixed places."""
    static = tuple(one.clone() for one in inputs)
    record = cuda_graph if context.cuda else (lambda work: work)
    play = record(lambda: update(*static))

    def replay(*inputs: Tensor) -> Tensor:
        for place, value in zip(static, inputs, strict=True):
            place.copy_(value)
        return play()

    return replay
