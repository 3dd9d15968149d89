"""How a teacher's outputs for an image are stored: all logits and features, or the largest logits alone."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.methods.terms import Outputs

# share of the largest by which a cached value may differ from a new one: rounding with another number of threads or
# images, or to the 11 bits of a float16; and that of a teacher that multiplies in fewer bits
ROUNDING = {"float32": 1e-3, "float16": 2e-3}
AMP_ROUNDING = {"bf16": 3e-2, "fp16": 4e-3, "tf32": 4e-3}
LARGEST_UINT16 = 2**16
SMALLEST = 1e-30  # below any value of a layer that is alive


class RowFormat(NamedTuple):
    """From logits (B, C) float32 to rows (B, columns) of a table, and back.

    With features a row holds the n values of the logits and of each feature behind them, and (B, n) is meant where it
    says (B, C).

    With ``top = K`` below C a row holds the K largest logits z, their classes, and one value for the C - K others,
    ``r = T * (log sum_others exp(z / T) - log(C - K))``. Back come logits that are z for the K classes and r for the
    others. So ``softmax(logits / T)`` is, up to rounding, that of the teacher for the K classes and, summed, for the
    others, whose probability is spread evenly: ``r`` is never above the K-th largest, and no order changes.
    """

    num_classes: int  # C
    dtype: str  # float32 or float16
    top: int | None = None  # K; None: all of them
    T: float = 1.0  # temperature of the method, dimensionless
    features: tuple[tuple[str, tuple[int, ...]], ...] = ()  # names and shapes of those of an image
    amp: str = "off"  # that the teacher multiplies in

    @property
    def rounding(self) -> float:
        """The share of the largest by which a value may differ when it is computed again."""
        return max(ROUNDING[self.dtype], AMP_ROUNDING.get(self.amp, 0.0))

    @property
    def content(self) -> str:
        """What is stored, for people."""
        return "logits and features" if self.features else "logits"

    @property
    def is_whole(self) -> bool:
        """Whether a row holds every logit."""
        return self.top is None or self.top >= self.num_classes

    @property
    def stored_dtype(self) -> str:
        """Of the table: of logits, or of the bytes of a row."""
        return self.dtype if self.is_whole else "uint8"

    @property
    def columns(self) -> int:
        """Of the table: logits, or bytes."""
        if self.top is None or self.is_whole:
            return self.num_classes + sum(math.prod(shape) for _, shape in self.features)
        return (self.top + 1) * self._value.itemsize + self.top * self._class.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of an image."""
        return self.columns * getattr(torch, self.stored_dtype).itemsize  # type: ignore[no-any-return]

    def flatten(self, outputs: Outputs) -> Tensor:
        """The values (B, n) of outputs: logits, then features, of maps the channels last, as models compute them."""
        flat = [_channels_last(one).flatten(1) for one in outputs.features.values()]
        return torch.cat([outputs.logits, *flat], dim=1)

    def outputs(self, values: Tensor) -> Outputs:
        """The outputs that have these values (B, n)."""
        logits, *flat = self._parts(values)
        shapes = zip(self.features, flat, strict=True)
        return Outputs(logits, {name: _shaped(one, shape) for (name, shape), one in shapes})

    def encode(self, logits: Tensor) -> Tensor:
        """Rows (B, columns) of logits (B, C) float32."""
        if self.is_whole:
            return logits.to(self._value)
        kept = logits.topk(self.top or 0, dim=1)
        values = torch.cat([kept.values, self._others(logits, kept.indices)], dim=1).to(self._value)
        return torch.cat([values.view(torch.uint8), kept.indices.to(self._class).view(torch.uint8)], dim=1)

    def decode(self, rows: Tensor) -> Tensor:
        """Logits (B, C) float32 of rows, on their device."""
        if self.is_whole:
            return rows.float()
        values, classes = self._split(rows)
        others = values[:, -1:].expand(len(rows), self.num_classes)
        return others.scatter(1, classes, values[:, :-1])

    def difference(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Largest difference between rows and what they would hold of other logits, for the classes that they hold.

        It is a share of the largest logit, 1 at least, and of each feature of its largest value.
        """
        if self.is_whole:
            floors = (1.0, *[SMALLEST] * len(self.features))
            parts = zip(self._parts(rows.float()), self._parts(logits), floors, strict=True)
            return torch.stack([_share(stored, fresh, floor=floor) for stored, fresh, floor in parts]).max()
        values, classes = self._split(rows)
        return _share(values, torch.cat([logits.gather(1, classes), self._others(logits, classes)], dim=1), floor=1.0)

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        """Logits and features among values (B, n)."""
        sizes = [self.num_classes, *(math.prod(shape) for _, shape in self.features)]
        return tuple(values.split(sizes, dim=1))

    def _others(self, logits: Tensor, classes: Tensor) -> Tensor:
        """What stands for the logits of all classes but these (B, K), as (B, 1)."""
        others = logits.double().scatter(1, classes, -math.inf) / self.T
        return (self.T * (others.logsumexp(1, keepdim=True) - math.log(logits.shape[1] - classes.shape[1]))).float()

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, K + 1) float32 and classes (B, K) int64 of rows."""
        width = ((self.top or 0) + 1) * self._value.itemsize
        values, classes = rows[:, :width].contiguous(), rows[:, width:].contiguous()
        numbers = classes.view(self._class).long() % LARGEST_UINT16 ** (self._class.itemsize // 2)
        return values.view(self._value).float(), numbers

    @property
    def _value(self) -> torch.dtype:
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    @property
    def _class(self) -> torch.dtype:
        """Of the number of a class; an int16 below 0 is a uint16, with which torch does not compute."""
        return torch.int16 if self.num_classes <= LARGEST_UINT16 else torch.int32


def _share(found: Tensor, expected: Tensor, *, floor: float) -> Tensor:
    return (found - expected).abs().max() / expected.abs().max().clamp_min(floor)


def _channels_last(feature: Tensor) -> Tensor:
    return feature.movedim(1, -1) if feature.dim() == 4 else feature


def _shaped(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    dense = flat.contiguous()  # not a part of each row
    if len(shape) != 3:
        return dense.view(-1, *shape)
    channels, height, width = shape
    return dense.view(-1, height, width, channels).movedim(-1, 1)


def loss_of_format(rows: RowFormat, logits: Tensor) -> str:
    """What a format loses of logits (B, C) float32, as a line; empty where it keeps all of them."""
    if rows.is_whole:
        return ""
    kept = rows.decode(rows.encode(logits))
    log_p, log_q = ((one.double() / rows.T).log_softmax(1) for one in (logits, kept))
    lost = (log_p.exp() * (log_p - log_q)).sum(1)
    others = 1 - log_p.exp().topk(rows.top or 0, dim=1).values.sum(1)
    same = (logits.argmax(1) == kept.argmax(1)).double().mean()
    whole = rows._replace(top=None)
    return (
        f"{rows.top} of {rows.num_classes:,} logits are kept, {rows.row_bytes:,} bytes an image and not "
        f"{whole.row_bytes:,}; at temperature {rows.T:g} the others hold {others.mean():.2%} of the probability: "
        f"spread evenly, KL(all || kept) is {lost.mean():.2g} nats, at most {lost.max():.2g} of {len(logits)} images, "
        f"and the top class the same for {same:.2%}"
    )
