"""The run folder: its files as text and as tensors, the states that it keeps, and whether its code may run."""
