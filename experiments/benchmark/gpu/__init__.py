"""The GPU benchmark's half that stays: what it exports, and what it makes of the results."""
