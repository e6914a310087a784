"""``spinmd analyze WHAT RUN.h5 [RUN2.h5 ...]``: brings the groups of analyses together, each of which adds its commands to ``app``.

A command is a few lines over its Python function.
"""

import spinmd.commands.analyze_dynamics
import spinmd.commands.analyze_moments
import spinmd.commands.analyze_spin_waves
import spinmd.commands.analyze_statics  # noqa: F401
from spinmd.commands.common import app

__all__ = ["app"]

app.registered_commands.sort(key=lambda command: command.name or "")
