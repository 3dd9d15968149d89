"""The parts of ``check.py``: those with ``part`` start processes, those with ``check`` are one."""
