"""Where a step's time goes, and how far that is from what the machine can do: ``graphscale train --profile``."""
