"""The sweep over masked layers, the paper's Figure 3: python -m experiments.sweep."""
