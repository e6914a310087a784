"""Groups of commands of the command line: ``spinmd analyze ...`` and the quick looks ``plot`` and ``view``."""
