"""Knowledge distillation in pure functions on PyTorch-Ignite: train a teacher, distil it, show what that bought.

Importing the package is cheap (no torch). The command line is ``python -m kdignite``; the same from Python is
``kdignite.pipelines``, with the settings of ``kdignite.config`` and the losses of ``kdignite.losses``.
"""

__version__ = "0.1.0"
